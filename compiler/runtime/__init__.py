"""The reference runner of a bundle: buckets, K/V cache, speculation, sampling."""

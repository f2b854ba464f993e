"""The bundle: its manifest, written whole or not at all, and its files compared with their hashes."""

"""Genie on the host: its config, and a driver of libGenie."""

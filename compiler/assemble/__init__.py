"""The bundle of a plan: its models compiled, measured and put together."""

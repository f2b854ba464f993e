"""A placed module cut into parts, one device each."""

"""A placed module cut into parts: one placement each, with the transfers between them and the lanes they run in."""

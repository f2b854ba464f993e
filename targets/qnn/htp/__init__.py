"""Calls of the HTP compiler and emulator, context binaries and how they are read back."""

"""What each command of `cli.py` does once its arguments are read; one module each, imported when it runs."""

"""A bundle on a phone: the script in it, and `edgec push`."""

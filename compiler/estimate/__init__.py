"""What a bundle will do on a device and what its compile will take, from shapes and published figures alone."""

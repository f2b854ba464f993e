"""What is legal at each level, enforced between passes."""

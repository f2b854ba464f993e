"""What passes do to the values between ops."""

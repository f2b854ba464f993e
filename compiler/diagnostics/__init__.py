"""What is said to a person: diagnostics with code, place and fix, explanations of codes, near names."""

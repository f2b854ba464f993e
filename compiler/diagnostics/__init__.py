"""Messages for people: diagnostics with code, place and fix, explanations of codes, nearest names."""

"""A file that fails when it is used."""

STEPS = [4 / n for n in (2, 1)]
STEPS.append(4 / len([]))

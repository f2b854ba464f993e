"""Helpers, no pass."""


def double(x):
    return 2 * x

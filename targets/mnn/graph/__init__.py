"""Any other graph as a plain `.mnn`."""

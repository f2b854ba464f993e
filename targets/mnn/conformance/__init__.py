"""What MNN is known to compute right: the table, and how it is measured."""

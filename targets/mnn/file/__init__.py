"""The `.mnn` file: op parameters, weight blobs, writing and reading back."""

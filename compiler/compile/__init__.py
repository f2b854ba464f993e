"""One deploy line from its source to emitted files, and what is measured on the way."""

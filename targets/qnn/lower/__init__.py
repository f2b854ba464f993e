"""A static graph rewritten into what HTP computes right."""

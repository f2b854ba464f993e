"""report.html: what was done, layer by layer, with plots."""

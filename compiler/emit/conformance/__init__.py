"""What an engine is known to compute right: cases, rows, the table, legality, and how rows are measured."""

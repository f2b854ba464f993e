"""What HTP is known to compute right: cases, rows, the table, and how it is measured."""

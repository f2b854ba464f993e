"""What `lut_gemv` does: which linears are taken (`rewrite`), and whether lookup is faster for them (`host_times`)."""

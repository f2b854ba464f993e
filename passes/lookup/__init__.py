"""What `lut_gemv` does: which linears are taken (`rewrite`), and whether lookup is faster for them.

That is measured (`host_times`), or for a chip that is not at hand estimated (`device_times`).
"""

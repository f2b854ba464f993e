"""The compiler's core: plan, module, passes' machinery, partition, manifest, driver."""

if not __name__.startswith("edgec."):  # a second copy of every class would follow
    raise ImportError("import `edgec.compiler`, not the folder `compiler` of a checkout")

"""The built-in passes, one file each."""

if not __name__.startswith("edgec."):  # a second copy of every class would follow
    raise ImportError("import `edgec.passes`, not the folder `passes` of a checkout")

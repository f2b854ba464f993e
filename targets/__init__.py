"""The emitters, one package each: what the phone loads."""

if not __name__.startswith("edgec."):  # a second copy of every class would follow
    raise ImportError("import `edgec.targets`, not the folder `targets` of a checkout")

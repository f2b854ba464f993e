"""The plan language: grammar, parser, checker."""

if not __name__.startswith("edgec."):  # a second copy of every class would follow
    raise ImportError("import `edgec.dsl`, not the folder `dsl` of a checkout")

from .checker import check_file, load_plan

__all__ = ["check_file", "load_plan"]

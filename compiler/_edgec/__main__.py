"""`python -m edgec` is the command `edgec`."""

import sys

from edgec.compiler.cli import main

sys.exit(main())

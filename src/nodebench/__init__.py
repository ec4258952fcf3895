"""nodebench: which gradient method for a neural ODE, and what it costs."""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  pathlib itself could be hidden
    # `python -m nodebench.cli` is being started: what lies in the user's folder must not hide the standard library.
    del sys.path[0]

from importlib.metadata import version

__version__ = version("nodebench")

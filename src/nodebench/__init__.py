"""nodebench: which gradient method for a neural ODE, and what it costs."""

from importlib.metadata import version

__version__ = version("nodebench")

"""madengine: build model images once, run them anywhere, compare the results."""

__version__ = "0.2.0"

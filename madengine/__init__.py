"""madengine: build model images once, run them anywhere, believe the numbers."""

__version__ = "0.2.0"

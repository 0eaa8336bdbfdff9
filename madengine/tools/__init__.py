"""What can also be run by itself: `python -m madengine.tools.discover_models`."""

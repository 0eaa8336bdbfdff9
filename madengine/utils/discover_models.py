"""CustomModel under the name that madengine 2 gives it."""

from madengine.tools.discover_models import CustomModel

__all__ = ["CustomModel"]

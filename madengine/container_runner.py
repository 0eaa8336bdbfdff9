"""The runner under the name that the documentation uses."""

from madengine.run.runner import ContainerRunner

__all__ = ["ContainerRunner"]

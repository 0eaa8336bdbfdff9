"""DockerBuilder under the name that the documentation uses."""

from madengine.build.builder import DockerBuilder

__all__ = ["DockerBuilder"]

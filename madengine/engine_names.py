"""The names of the container engines, without their classes: the parser and a node's shell need no more."""

# In the order in which `--engine auto` tries them.
ENGINE_NAMES = ("docker", "podman", "nerdctl")

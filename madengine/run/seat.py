"""A run's place among the madengines of several nodes, as the target that starts them puts it into the environment.

Every target starts the same `madengine run` on each node, with these variables: over ssh from the controller, under
Slurm from the script of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from madengine.errors import ConfigurationError

NODES = "MADENGINE_NODES"
RANK = "MADENGINE_NODE_RANK"
#: where the madengine of rank 0 listens, as the others reach it: ADDRESS:PORT
RENDEZVOUS = "MADENGINE_RENDEZVOUS"
#: a secret of this run, by which they know each other
KEY = "MADENGINE_RENDEZVOUS_KEY"
_MOST_NODES = 100_000


@dataclass(frozen=True)
class Seat:
    """A node of a run on several nodes."""

    nodes: int
    rank: int
    #: of rank 0
    address: str
    port: int
    key: str = field(repr=False)

    @property
    def environ(self) -> dict[str, str]:
        """The variables that `seat_in` reads."""
        rendezvous = f"{self.address}:{self.port}"
        return {NODES: str(self.nodes), RANK: str(self.rank), RENDEZVOUS: rendezvous, KEY: self.key}


def seat_in(environ: Mapping[str, str]) -> Seat | None:
    """Return the place that the environment names; None where the run is on one node.

    Raises ConfigurationError for variables that are wrong, or missing beside others.
    """
    if not any(environ.get(name) for name in (NODES, RANK, RENDEZVOUS, KEY)):
        return None
    nodes = _number(environ, NODES, 1, _MOST_NODES)
    rank = _number(environ, RANK, 0, nodes - 1)
    address, _, port = environ.get(RENDEZVOUS, "").rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"{RENDEZVOUS}={environ.get(RENDEZVOUS, '')}: expected ADDRESS:PORT")
    if not environ.get(KEY):
        raise ConfigurationError(f"{KEY}: expected a secret of this run, the same on all nodes")
    return Seat(nodes, rank, address.strip("[]"), int(port), environ[KEY]) if nodes > 1 else None


def _number(environ: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not least <= int(text) <= most:
        raise ConfigurationError(f"{name}={text[:60]}: expected a number from {least} to {most}")
    return int(text)

"""The sidecar of a pod: waits for the model's container to end, and puts its rows and result into a ConfigMap.

`python3 -m madengine.deploy.kubernetes.reporter`, in a pod; needs nothing but the standard library and this package.
"""

from __future__ import annotations

import signal
import sys
import threading

READY = "/myworkspace/.reporter"

_ended = threading.Event()


def main() -> int:
    """Listen to TERM before all else: to the first process of a container one that comes earlier is lost."""
    signal.signal(signal.SIGTERM, lambda number, frame: _ended.set())
    with open(READY, "w"):  # the model's container is started when this is there
        pass
    from madengine.deploy.kubernetes import report

    return report.main(_ended)


if __name__ == "__main__":
    sys.exit(main())

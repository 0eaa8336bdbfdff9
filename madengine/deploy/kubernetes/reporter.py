"""The sidecar of a pod: wait for the model's container to end, then put its rows and result into a ConfigMap.

`python3 -m madengine.deploy.kubernetes.reporter`, in a pod; needs only the standard library and this package.
"""

from __future__ import annotations

import signal
import sys
import threading

READY = "/myworkspace/.reporter"

_ended = threading.Event()


def main() -> int:
    """Handle TERM before anything else: the kernel discards it for a container's first process without a handler."""
    signal.signal(signal.SIGTERM, lambda number, frame: _ended.set())
    with open(READY, "w"):  # the model's container starts once this exists
        pass
    from madengine.deploy.kubernetes import report

    return report.main(_ended)


if __name__ == "__main__":
    sys.exit(main())

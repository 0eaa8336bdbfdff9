"""The stand-in API server by itself, until TERM: python -m tests.k8s.serve FOLDER; its kubeconfig is in FOLDER."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.k8s.api_server import serving

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with serving(folder):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})

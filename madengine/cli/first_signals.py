"""What Ctrl-C, TERM and a lost terminal do before a command has begun: one line, and its exit code for that.

Importing this sets it up, if this process is a madengine command. It is imported first, and imports nothing that the
interpreter does not have yet: the imports that follow take most of a command's start.
"""

from __future__ import annotations

import os
import sys
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal, signal

_PROGRAMS = ("madengine", "madengine.__main__", "madengine.distributed_cli", "__main__")


def _end(number: int, frame: object) -> None:
    # Nothing was started: there is nothing to tidy up.
    os.write(2, b"interrupted\n")
    os._exit(130)


def _is_command() -> bool:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None) or ""
    return (spec.name if spec else os.path.basename(file)) in _PROGRAMS  # noqa: PTH119 # pathlib takes longer


if _is_command():
    for _number in (SIGINT, SIGTERM, SIGHUP):
        # `nohup` and shells that start a program in the background have some of them ignored.
        if getsignal(_number) is not SIG_IGN:
            signal(_number, _end)

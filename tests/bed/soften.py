"""Drop from a container's config what this machine's root may not grant, then become runc: soften.py RUNC WORD...

Where root lacks CAP_SYS_RESOURCE the kernel refuses missing capabilities, raised limits and a lowered out-of-memory
score, so `--ulimit` and `--cap-add` would fail; on any other machine nothing is changed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

RUNC = sys.argv[1]

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)


def text(path: str) -> str:
    """What a file holds; this starts at every container, so it does without pathlib."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def grantable() -> set[str]:
    """The capabilities in our own bounding set."""
    bounding = int(next(line.split()[1] for line in text("/proc/self/status").splitlines() if "CapBnd" in line), 16)
    return {f"CAP_{name}" for bit, name in enumerate(CAPABILITIES.split()) if bounding >> bit & 1}


def soften(process: dict[str, Any]) -> None:
    """Lower what the process asks for to what can be granted."""
    granted = grantable()
    if "CAP_SYS_RESOURCE" in granted:
        return
    for kind, wanted in (process.get("capabilities") or {}).items():
        process["capabilities"][kind] = [name for name in wanted if name in granted]
    for limit in process.get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], limit["hard"])
    score = int(text("/proc/self/oom_score_adj"))
    if "oomScoreAdj" in process:
        process["oomScoreAdj"] = max(process["oomScoreAdj"] or 0, score)


def bundle(words: list[str]) -> str:
    """The folder that --bundle names, else the current one."""
    for position, word in enumerate(words):
        if word in ("--bundle", "-b"):
            return words[position + 1]
        if word.startswith("--bundle="):
            return word.removeprefix("--bundle=")
    return "."


def rewrite(path: str, process_of: Callable[[Any], Any]) -> None:
    """Soften the process in a JSON file."""
    content = json.loads(text(path))
    soften(process_of(content))
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def main(words: list[str]) -> None:
    """Soften the config of a container that is being made, or of a process added to one, then become runc."""
    if "create" in words or "run" in words:
        rewrite(f"{bundle(words)}/config.json", lambda config: config.get("process") or {})
    elif "exec" in words:
        for option in ("--process", "-p"):
            if option in words:
                rewrite(words[words.index(option) + 1], lambda process: process)
    os.execv(RUNC, [RUNC, *words])


main(sys.argv[2:])

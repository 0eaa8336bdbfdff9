"""What is sent to a node's python3: code and its input, all over stdin.

The command line is the same for every order, and plain to sh, csh and fish alike: nothing in it needs quoting but the
quotes themselves. So neither a login shell nor what it sources decides what arrives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madengine.config.package import own_file
from madengine.deploy.ssh import node
from madengine.deploy.ssh.archive import pack_to_bytes

# `-I`, so that nothing in the folder or the home takes the place of our modules.
STARTER = ("-I", "-c", "import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))")
# A login may have changed to another folder, and printed something without an end of line.
_HEAD = """\
import json, os, sys
request = json.loads(sys.stdin.buffer.readline().decode())
try:
    os.chdir(os.path.expanduser("~"))
except OSError:
    pass
print(flush=True)
"""
_EXAMINE = """
sys.argv[1:] = request["words"]
"""
_ORDER = """
os.chdir(request["folder"])
sys.path.insert(0, os.path.abspath(request["bundle"]))
from madengine.deploy.ssh import node
sys.exit(node.main(request["words"]))
"""
_RECEIVE = """
try:
    unpack(sys.stdin.buffer, Path(request["folder"]), request["private"], may_replace=True)
except OSError as error:
    sys.exit(f"{error.filename or request['folder']}: {error.strerror}")
"""


def examine(words: Sequence[str]) -> bytes:
    """Return the order to run programs/preflight.py with these words, on any python3."""
    return _stdin(_HEAD + _EXAMINE + own_file("programs/preflight.py").decode(), {"words": list(words)})


def order(folder: str, bundle: str, words: Sequence[str]) -> bytes:
    """Return the order to call node.main of a bundle with these words, in a folder."""
    return _stdin(_HEAD + _ORDER, {"folder": folder, "bundle": bundle, "words": list(words)})


def receive(folder: str, files: Sequence[Path]) -> bytes:
    """Return the order to write these files into a folder, under their own names."""
    code = own_file("deploy/ssh/archive.py").decode() + _HEAD + _RECEIVE
    request = {"folder": folder, "private": list(node.SECRETS)}
    return _stdin(code, request) + pack_to_bytes([(file.name, file) for file in files])


def _stdin(code: str, request: Mapping[str, Any]) -> bytes:
    source = code.encode()
    return b"%d\n%s%s\n" % (len(source), source, json.dumps(request).encode())

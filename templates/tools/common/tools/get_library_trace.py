"""get_library_trace.py COMMAND...: library_trace.sh by the name that commands of users' own tools have."""

import os
import sys
from pathlib import Path

script = Path(__file__).absolute().with_name("library_trace.sh")
os.execvp("sh", ["sh", str(script), *sys.argv[1:]])

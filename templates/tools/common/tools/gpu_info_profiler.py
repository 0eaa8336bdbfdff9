"""gpu_info_profiler.py COMMAND...: run a command; madengine itself samples the GPUs, from outside the container."""

import os
import sys

os.execvp(sys.argv[1], sys.argv[1:])

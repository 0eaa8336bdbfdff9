"""`python -m madengine`."""

import sys

from madengine.distributed_cli import main

sys.exit(main())

"""`python -m madengine`."""

from madengine.distributed_cli import main

# isort: split
import sys

sys.exit(main())

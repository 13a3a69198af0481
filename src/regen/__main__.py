"""`python -m regen` is the command `regen`."""

import sys

from regen.cli import main

sys.exit(main())

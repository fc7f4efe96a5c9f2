"""``python -m cellfm``: the command line."""

import sys

from cellfm.cli import main

sys.exit(main())

"""``python -m cellfm``: the command line."""

import sys

from cellfm.cli._main import main

sys.exit(main())

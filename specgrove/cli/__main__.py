"""``python -m specgrove.cli`` is the ``specgrove`` command."""

import sys

from specgrove.cli import main

sys.exit(main())

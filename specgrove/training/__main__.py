"""``python -m specgrove.training``. Empty, since spawned workers can't import functions from a package's ``__main__``."""

import sys

from specgrove.training.cli import main

if __name__ == "__main__":
    sys.exit(main())

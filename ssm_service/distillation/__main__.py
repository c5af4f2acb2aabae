"""``python -m ssm_service.distillation``. Empty, since spawned workers can't import functions from a package's ``__main__``."""

import sys

from ssm_service.distillation.cli import main

if __name__ == "__main__":
    sys.exit(main())

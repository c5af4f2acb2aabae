"""Log lines of all processes: when, how bad, which service, what. Set up once in each ``__main__``."""

from __future__ import annotations

import logging
import sys


def set_up_logging(service: str, level: str = "INFO") -> None:
    """Sends readable lines to stderr, e.g. ``2026-01-31 12:00:00.123 INFO router router.replicas: connected``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s.%(msecs)03d %(levelname)s {service} %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)

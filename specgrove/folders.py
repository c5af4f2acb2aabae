"""Where files of one user lie: found without a home folder too, as in containers that run under a number.

Called where defaults of command lines are made. Reads the environment, which only ``__main__``s and this module do.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def default_cache_dir() -> Path:
    """For models that SpecGrove makes itself: ``$XDG_CACHE_HOME/specgrove``, else below the home folder, else a temporary one."""
    return _user_folder("XDG_CACHE_HOME", ".cache") / "specgrove"


def default_state_dir() -> Path:
    """For what is kept of sessions at the terminal, such as the history of questions."""
    return _user_folder("XDG_STATE_HOME", ".local/state") / "specgrove"


def _user_folder(variable: str, below_home: str) -> Path:
    given = os.environ.get(variable, "")
    # The standard has it so: a relative path is to be ignored.
    if Path(given).is_absolute():
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for this user
        home = Path("/")
    if home != Path("/"):
        return home / below_home
    return Path(tempfile.gettempdir()) / f"user-{os.getuid()}" / below_home

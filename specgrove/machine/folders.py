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


def provide_home() -> None:
    """Where this user has no home, ``HOME`` becomes a temporary one, for this process and those that it starts.

    Libraries (the hub's, pip) otherwise fail, or write into a folder that is called ``~``. Raises ``OSError`` where that folder is
    another user's, who could put models there.
    """
    if _home() is not None:
        return
    folder = _temporary_home()
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"there is no home folder, and {folder} is another user's: set HOME")
    os.environ["HOME"] = str(folder)


def typed_path(text: str | os.PathLike[str]) -> Path:
    """With ``~`` as the home folder. Raises ``ValueError`` for ``~NAME`` of a user that is not known here.

    An empty text is no path, but a variable that was not set: it would be the current folder.
    """
    if text == "":
        raise ValueError("a path is empty; write . for the current folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(text)!r}: the home folder of this user is not known; write ./~ for a name that begins so"
        ) from error


def _user_folder(variable: str, below_home: str) -> Path:
    given = os.environ.get(variable, "")
    # The standard has it so: a relative path is to be ignored.
    if Path(given).is_absolute():
        return Path(given)
    return (_home() or _temporary_home()) / below_home


def _home() -> Path | None:
    """``None`` also for ``/``, which containers give to users that they don't know."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for this user
        return None
    return home if home.is_absolute() and home != Path("/") else None


def _temporary_home() -> Path:
    return Path(tempfile.gettempdir()) / f"user-{os.getuid()}"

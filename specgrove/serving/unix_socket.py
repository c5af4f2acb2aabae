"""A unix socket's path before a server listens there: what may be taken, and what belongs to somebody.

gRPC would remove whatever is at the path, be it a file or the socket of a server that runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from specgrove.addresses import MAX_SOCKET_PATH_BYTES

_CONNECT_TIMEOUT_S = 1.0


def take_socket_path(path: Path) -> None:
    """Removes a socket that nobody listens on. Raises ``OSError`` that says what else is there."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise OSError(f"can't listen on {path}: a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise OSError(f"can't listen on {path}: there is no folder {path.parent}")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(f"can't listen on {path}: it is there and no socket; give another path, or remove it")
    if _is_in_use(path):
        raise OSError(f"can't listen on {path}: another server does")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it takes no connection now, but somebody has it
            return True
    return True

"""Files that survive a crash: synced to disk on demand, and truncated to what was written at a mark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from stbass.errors import CheckpointError

__all__ = ["back_to", "check_writable", "sync", "sync_folder"]


def check_writable(path: Path) -> None:
    """Check whether a file can be made or replaced there, as far as that can be told without doing it.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder itself.
        PermissionError: it, or its folder, must not be written.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission")


def sync(file: IO[bytes]) -> None:
    """Return when all that was written to the file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names of the files in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def back_to(path: Path, length: int) -> IO[bytes]:
    """Open a file at its end, without a buffer, after cutting off what is beyond a length.

    Raises:
        CheckpointError: it is gone, or shorter than that: somebody else changed it.
    """
    try:
        file = path.open("r+b", buffering=0)
    except FileNotFoundError:
        raise CheckpointError(
            f"cannot go on writing {path}: the checkpoint says that {length} bytes of it are written, and it is gone"
        ) from None
    found = file.seek(0, os.SEEK_END)
    if found < length:
        file.close()
        raise CheckpointError(
            f"cannot go on writing {path}: the checkpoint says that {length} bytes of it are written, and it has "
            f"{found}: somebody else changed it"
        )
    file.truncate(length)
    file.seek(length)
    sync(file)
    return file

"""Files that survive a crash: synced to disk on demand, cut back to a mark, and put in their place when complete."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from stbass.errors import CheckpointError

__all__ = ["back_to", "beside", "check_replaceable", "place", "sync", "sync_folder"]


def check_replaceable(path: Path) -> None:
    """Check whether a file can be made or replaced there, as far as that can be told without doing it.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder itself.
        FileExistsError: it is something else that is no regular file, such as a named pipe.
        PermissionError: it, or its folder, must not be written.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"cannot write {path}: it is no regular file, and cannot be replaced by one")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission")
    if not os.access(path.resolve().parent, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission to make a file in {path.resolve().parent}")


def beside(path: Path, ending: str) -> Path:
    """Where to write what will be put in the place of a file: on the same file system, also if the path is a link."""
    path = path.resolve()
    return path.with_name(path.name + ending)


def place(made: Path, path: Path) -> None:
    """Put a file that is complete and on disk in its place, at once, with the permissions of the one it replaces.

    Idempotent: if it is gone and there is a file in its place, it is there already.

    Raises:
        FileNotFoundError: it is gone, and there is no file in its place.
    """
    path = path.resolve()
    if not made.exists() and path.exists():
        return
    if path.exists():
        shutil.copymode(path, made)
    os.replace(made, path)
    sync_folder(path.parent)


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

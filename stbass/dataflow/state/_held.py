"""Locks that this Python process holds until it dies. Forked children do not inherit them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["FileLock", "forget_in_children", "keep_in_children"]

_held: set[int] = set()


def forget_in_children(descriptor: int) -> None:
    """Close this in every child that is forked, until :func:`keep_in_children`.

    A child (of a pool of processes, for example) may outlive this process: with the descriptor it would keep the job.
    """
    _held.add(descriptor)


def keep_in_children(descriptor: int) -> None:
    """The descriptor is closed, or about to be."""
    _held.discard(descriptor)


def _let_go() -> None:
    if not _held:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in _held:
        # The number stays taken: the child's copy of the object that owns it will close it some day.
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class FileLock:
    """A lock (``flock``) on a file of its own, which the operating system frees when this process dies.

    The file is made when it is taken and removed when it is given up. One that a killed process left is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take it; False if another has it. One that is held already stays so.

        Raises:
            OSError: the file cannot be made, or its file system has no locks.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            taken = False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have removed it after we opened it: then it is no lock on anything any more.
                taken = self._is_there(descriptor)
            except BlockingIOError:
                return False
            finally:
                if not taken:
                    os.close(descriptor)
            if taken:
                forget_in_children(descriptor)
                self._descriptor = descriptor
        return True

    def give_up(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                if self._is_there(descriptor):
                    self.path.unlink()
            finally:
                keep_in_children(descriptor)
                os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

"""What tests ask the operating system about processes."""

from __future__ import annotations

import os
import select
from pathlib import Path

__all__ = ["command_of", "descendants_of", "wait_until_gone"]


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process has ended (it need not be a child) before ``seconds`` have passed."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def descendants_of(pid: int) -> list[int]:
    """The processes that this one and its children have started and that still run."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        # Each thread has children of its own.
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            children = [int(child) for child in task.read_text().split()]
            found += children
            todo += children
    return found


def command_of(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")

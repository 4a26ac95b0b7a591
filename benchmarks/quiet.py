"""How busy the machine is with work that is not ours, from ``/proc``.

Foreign CPU is a fraction of the whole machine: 0.5 on two cores is one core's worth. Interrupts are left out, because
the kernel books there the loopback traffic that the benchmarks make themselves; stolen time is counted, because a
virtual machine that does not get its cores is as disturbed as one that shares them.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CpuTimes", "busy_limit", "foreign_share", "process_tree", "read_cpu", "tree_ticks", "wait_until_quiet"]

QUIET_SHARE = 0.05
"""A sample may start when less than this share of the machine is used by others."""
BUSY_SHARE = 0.10
"""A sample during which others used more than this share of the machine is marked."""
LOOK_SECONDS = 0.3
"""How long one look at the machine takes before a sample."""
_TICK_NOISE = 4  # both sides are counted in whole clock ticks, so a short window is off by some


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Clock ticks since boot: of the whole machine, used by anybody, and used by this process and its descendants."""

    total: int
    used: int
    own: int


def process_tree(parents: dict[int, int], root: int) -> set[int]:
    """``root`` and every process below it; ``parents`` gives each process's parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    tree: set[int] = set()
    pending = [root]
    while pending:
        pid = pending.pop()
        if pid not in tree:
            tree.add(pid)
            pending.extend(children.get(pid, ()))
    return tree


def tree_ticks(root: int) -> int:
    """Clock ticks used by a process, its living descendants, and those descendants that were waited for."""
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since the directory was listed
        # The command, in brackets, may itself hold spaces and brackets.
        fields = text[text.rindex(")") + 2 :].split()
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(int(field) for field in fields[11:15])
    return sum(ticks.get(pid, 0) for pid in process_tree(parents, root))


def read_cpu() -> CpuTimes:
    """The times now."""
    with open("/proc/stat") as stat:
        user, nice, system, idle, iowait, irq, softirq, steal = (int(field) for field in stat.readline().split()[1:9])
    used = user + nice + system + steal
    return CpuTimes(used + idle + iowait + irq + softirq, used, tree_ticks(os.getpid()))


def foreign_share(before: CpuTimes, after: CpuTimes) -> float:
    """Which share of the machine others used between two readings, 0 to 1."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    foreign = (after.used - before.used) - (after.own - before.own)
    return min(max(foreign / total, 0.0), 1.0)


def busy_limit(before: CpuTimes, after: CpuTimes) -> float:
    """The foreign share above which a sample between two readings is marked; wider when the readings are too coarse."""
    return max(BUSY_SHARE, _TICK_NOISE / max(after.total - before.total, 1))


def wait_until_quiet(patience: float) -> float:
    """Wait until others leave the machine alone, at most ``patience`` seconds.

    Returns:
        How many seconds it waited after its first look.
    """
    begun: float | None = None
    while True:
        before = read_cpu()
        # Not a poll of a condition: the use of a processor exists only over a stretch of time.
        time.sleep(LOOK_SECONDS)
        after = read_cpu()
        now = time.monotonic()
        begun = begun or now
        quiet = foreign_share(before, after) <= max(QUIET_SHARE, _TICK_NOISE / max(after.total - before.total, 1))
        if quiet or now - begun >= patience:
            return now - begun

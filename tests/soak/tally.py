"""What came of a soak, and whether it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.soak.faults import Harm
from tests.soak.work import Noted

__all__ = ["Pipeline", "Tally"]


@dataclass(slots=True)
class Pipeline:
    """What went into a pipeline, and what came out, in order."""

    sent: int = 0
    received: list[int] = field(default_factory=list)
    ended: bool = False
    """Whether it was closed, and the close came out at the other end."""

    @property
    def doubled(self) -> int:
        """Values that came more than once."""
        return len(self.received) - len(set(self.received))

    @property
    def lost(self) -> int:
        """Values that did not come."""
        return self.sent - len(set(self.received))

    @property
    def in_order(self) -> bool:
        """Whether they came in the order in which they went in."""
        return self.received == sorted(self.received)


@dataclass(slots=True)
class Tally:
    """Everything that is counted.

    Args:
        lease: of the processes, in seconds.
    """

    lease: float
    sent: int = 0
    results: Counter[str] = field(default_factory=Counter)
    """By the name of the process: how many results it has."""
    failures: list[str] = field(default_factory=list)
    waiting: int = 0
    """Processes that were sent and have not ended, at the moment."""
    hung: int = 0
    broken: list[str] = field(default_factory=list)
    """Parts of the producer that failed, or did not end."""
    pipelines: list[Pipeline] = field(default_factory=list)
    ended_twice: Counter[str] = field(default_factory=Counter)
    """Runs to the end that were not the only one of their process, by what had happened to the worker."""

    def explain(self, noted: Iterable[Noted], harms: Sequence[Harm]) -> None:
        """Find what ran to its end more than once, and why.

        That may happen where a worker died between the end and the storing of the result: it was killed after the end.
        To the fleet one that is paused for longer than a lease is dead as well.
        """
        ends: dict[str, list[Noted]] = defaultdict(list)
        for one in noted:
            if one.what == "end":
                ends[one.process].append(one)
        of_worker: dict[int, list[Harm]] = defaultdict(list)
        for harm in harms:
            of_worker[harm.pid].append(harm)
        for runs in ends.values():
            reasons = [reason for run in runs if (reason := self._reason(run, of_worker[run.pid]))]
            for number in range(len(runs) - 1):
                self.ended_twice[reasons[number] if number < len(reasons) else "without a reason"] += 1

    def _reason(self, run: Noted, harms: list[Harm]) -> str | None:
        for harm in harms:
            if harm.what == "killed" and harm.begin - self.lease <= run.at <= harm.end:
                return "its worker was killed before it was stored"
            # It may end right after the pause, before it hears that its lease is over.
            paused = harm.what == "paused" and harm.end - harm.begin >= self.lease / 2
            if paused and harm.begin - self.lease <= run.at <= harm.end + 1:
                return "its worker was paused for longer than the lease before it was stored"
        return None

    @property
    def lost(self) -> int:
        """Processes that have no result."""
        return self.sent - len(self.results)

    @property
    def doubled(self) -> int:
        """Results beyond the first of a process."""
        return sum(self.results.values()) - len(self.results)

    def faults(self) -> list[str]:
        """What does not hold."""
        found = []
        for count, what in (
            (self.lost, "processes without a result"),
            (self.doubled, "results too many"),
            (len(self.failures), "processes that failed"),
            (self.hung, "processes that hung"),
            (len(self.broken), "parts of the producer that failed or did not end"),
            (self.ended_twice["without a reason"], "processes that ran to their end twice without a reason"),
            (sum(one.lost for one in self.pipelines), "values lost"),
            (sum(one.doubled for one in self.pipelines), "values doubled"),
            (sum(not one.in_order for one in self.pipelines), "pipelines not in order"),
            (sum(not one.ended for one in self.pipelines), "pipelines that did not end"),
        ):
            if count:
                found.append(f"{count} {what}")
        return found

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
    def disorder(self) -> str:
        """The first that came later than one that went in after it, with what came around it; empty: there is none."""
        came = self.received
        wrong = next((at for at in range(1, len(came)) if came[at] < came[at - 1]), None)
        return "" if wrong is None else f"{came[max(0, wrong - 20) : wrong + 20]}"


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
    stored: dict[str, int] = field(default_factory=dict)
    """By the name of the process: which attempt its result is of."""
    failures: list[str] = field(default_factory=list)
    waiting: int = 0
    """Processes that were sent and have not ended, at the moment."""
    hung: int = 0
    broken: list[str] = field(default_factory=list)
    """Parts of the producer that failed, or did not end."""
    pipelines: list[Pipeline] = field(default_factory=list)
    ended_twice: Counter[str] = field(default_factory=Counter)
    """Runs to the end that were not the only one of their process, by what had happened to the worker."""

    def explain(self, noted: Iterable[Noted], harms: Sequence[Harm], troubles: Sequence[Harm]) -> None:
        """Find what ran to its end more than once, and why.

        That may happen where a worker died between an end and the storing of the result, or, which is the same to the
        fleet, was paused for longer than a lease. One that is stopped stores first; it cannot where the server, or the
        way there, is in trouble.
        """
        starts: dict[str, list[Noted]] = defaultdict(list)
        ends: dict[str, list[Noted]] = defaultdict(list)
        for one in noted:
            (starts if one.what == "start" else ends)[one.process].append(one)
        for process, runs in ends.items():
            # The one whose result counts needs no reason.
            counts = next((run for run in runs if run.attempt == self.stored.get(process)), runs[-1])
            for run in runs:
                if run is not counts:
                    self.ended_twice[self._reason(run, starts[process], harms, troubles)] += 1

    def _reason(self, run: Noted, starts: Sequence[Noted], harms: Sequence[Harm], troubles: Sequence[Harm]) -> str:
        began = min((one.at for one in starts if one.attempt == run.attempt), default=run.at)
        later = min((one.at for one in starts if one.attempt > run.attempt), default=float("inf"))
        for harm in harms:
            if harm.pid != run.pid or harm.begin > max(later, run.at):
                continue
            if harm.what == "killed" and run.at <= harm.end:
                return "its worker was killed before it was stored"
            if harm.what == "paused" and harm.end - harm.begin >= self.lease / 2 and began <= harm.end:
                return "its worker was paused for longer than the lease before it was stored"
            in_trouble = any(one.end >= run.at - self.lease and one.begin <= harm.end for one in troubles)
            if harm.what == "stopped" and run.at <= harm.end and in_trouble:
                return "its worker was stopped before it was stored, while Redis could not be reached or refused"
        return "without a reason"

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
            (sum(not one.ended for one in self.pipelines), "pipelines that did not end"),
        ):
            if count:
                found.append(f"{count} {what}")
        disorders = [f"a pipeline not in order: {one.disorder}" for one in self.pipelines if one.disorder]
        return found + disorders

"""Counts what a process, or a composition with all that is in it, uses, and ends it when its budget is used up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stbass._values.ids import new_id
from stbass._values.usage import NO_USAGE, Budget, Usage
from stbass.errors import BudgetExceeded

__all__ = ["Meter"]

# One for all meters: it is held for microseconds, and what is used counts in several at once.
_lock = threading.RLock()


class Meter:
    """What is used inside of one process or composition. From any thread.

    Args:
        around: the meter of the composition around it, where it counts too.
        run: the id of the run that it belongs to; by default that of the one around it, or a new one.
        tell: is told the total whenever something is added, for those who wait elsewhere.
    """

    __slots__ = ("_around", "_budget", "_limits", "_run", "_tell", "_watchers", "total")

    def __init__(
        self, around: Meter | None = None, *, run: str = "", tell: Callable[[Usage], None] | None = None
    ) -> None:
        self._around = around
        self._run = run
        self._tell = tell
        self._budget: Budget | None = None
        self._watchers: list[Callable[[], None]] | None = None
        self._limits: tuple[Meter, ...] = () if around is None else around._limits
        self.total = NO_USAGE

    @property
    def run_id(self) -> str:
        """The id of the run: of all that one program has started at once."""
        if self._around is not None:
            return self._around.run_id
        with _lock:
            if not self._run:
                self._run = new_id()
        return self._run

    @property
    def limits(self) -> tuple[Meter, ...]:
        """The meters with a budget, from here outwards."""
        return self._limits

    def limit(self, budget: Budget) -> None:
        """Give it a budget."""
        self._budget = budget
        self._limits = (self, *(() if self._around is None else self._around._limits))

    @property
    def spent(self) -> BudgetExceeded | None:
        """The error, if its budget is used up."""
        budget, used = self._budget, self.total
        if budget is None or not budget.is_used_up(used):
            return None
        return BudgetExceeded(f"the budget of {budget.summary} is used up: {used.summary}", budget=budget, used=used)

    def add(self, usage: Usage) -> None:
        """Count something, here and in all meters around. Whoever watches one that is used up by it is called."""
        called: list[Callable[[], None]] = []
        with _lock:
            meter: Meter | None = self
            while meter is not None:
                meter.total += usage
                if meter._tell is not None:
                    meter._tell(meter.total)
                if meter._watchers and meter.spent is not None:
                    called += meter._watchers
                meter = meter._around
        for call in called:
            call()

    def watch(self, call: Callable[[], None]) -> None:
        """Call it, in any thread, when the budget is used up. It may be called more than once."""
        with _lock:
            self._watchers = [*(self._watchers or ()), call]

    def unwatch(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        with _lock:
            self._watchers = [one for one in self._watchers or () if one is not call]

"""A summary of many results, with the patterns among their failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

from stbass._values.outcome import Failure, ProcessResult, aware
from stbass._values.pages import html_page, safe_html
from stbass._values.texts import error_text, message_of, printable_lines, shortened
from stbass._values.usage import NO_USAGE, Usage

__all__ = ["FailureReport"]

_CASCADE = timedelta(milliseconds=100)
_LONGEST_NAME = 1000
_MOST_SHOWN = 20
_MOST_ROWS = 200


@dataclass
class FailureReport:
    """Counts results as they are added, and finds patterns in the failures among them.

    Args:
        total_processes: how many results were added.
        succeeded: how many of them are successes.
        failed: how many of them are failures.
        failures: the failures, in the order added.
        usage: what all of them have used.
    """

    total_processes: int = 0
    succeeded: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    usage: Usage = NO_USAGE

    @classmethod
    def of(cls, results: Iterable[ProcessResult]) -> FailureReport:
        """A report over ``results``."""
        made = cls()
        for result in results:
            made.add(result)
        return made

    def add(self, result: ProcessResult) -> None:
        """Count one more result."""
        self.total_processes += 1
        self.usage += result.usage
        if result.is_ok:
            self.succeeded += 1
        else:
            self.failed += 1
            self.failures.append(result.failure)

    @property
    def failure_rate(self) -> float:
        """Failed of all, 0 to 1; 0 before the first result."""
        return self.failed / self.total_processes if self.total_processes else 0.0

    @property
    def common_failure_types(self) -> dict[str, int]:
        """How often each type of error occurred, the most frequent first."""
        return dict(Counter(type(failure.error).__name__ for failure in self.failures).most_common())

    @property
    def slowest_failure(self) -> Failure | None:
        """The process that ran longest before it failed; None if none of them ever started."""
        timed = [(failure.elapsed, failure) for failure in self.failures if failure.elapsed is not None]
        return max(timed, key=lambda pair: pair[0])[1] if timed else None

    def pattern_analysis(self) -> dict[str, Any]:
        """Patterns among the failures.

        Returns:
            ``repeat_timeouts``: names of the processes that timed out twice or more often;
            ``repeat_errors``: ``(name, error type)`` seen twice or more often;
            ``cascade_failures``: whether two failures came less than 100 ms apart.
        """
        return {
            "repeat_timeouts": [name for name, count in self._timeouts().items() if count >= 2],
            "repeat_errors": [key for key, count in self._errors().items() if count >= 2],
            "cascade_failures": self._is_cascade(),
        }

    def recommendations(self) -> list[str]:
        """What to do about the failures, one sentence each."""
        found = [
            f"Process '{name}' timed out in {count}/{self.total_processes} runs: give it more time or less to do"
            for name, count in self._timeouts().items()
        ]
        found += [
            f"Process '{name}' failed {count} times with {error_type}: check its input,"
            " or give a retry policy if the cause passes by itself"
            for (name, error_type), count in self._errors(timeouts=False).items()
            if count >= 2
        ]
        if self._is_cascade():
            found.append(
                "Failures came less than 100 ms apart, as when one brings others down:"
                " FailurePolicy.COLLECT keeps the other processes running"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; ``usage`` is among it if anything was used."""
        made: dict[str, Any] = {
            "total_processes": self.total_processes,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "failure_rate": self.failure_rate,
            "failures": [
                {
                    "process_name": _name(failure),
                    "error_type": type(failure.error).__name__,
                    "error_message": message_of(failure.error),
                    **({"leaves": list(failure.leaves)} if failure.leaves else {}),
                }
                for failure in self.failures
            ],
        }
        if self.usage:
            made["usage"] = self.usage.to_dict()
        return made

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"Total: {self.total_processes}, succeeded: {self.succeeded}, failed: {self.failed}",
            f"Failure rate: {self.failure_rate:.1%}",
        ]
        if self.usage:
            lines.append(f"Usage: {self.usage.summary}")
        if self.failures:
            kinds = ", ".join(f"{name} ({count})" for name, count in self.common_failure_types.items())
            lines.append(f"Failure types: {kinds}")
        lines += [failure.summary for failure in self.failures[:_MOST_SHOWN]]
        if self.failed > _MOST_SHOWN:
            lines.append(f"and {self.failed - _MOST_SHOWN} more")
        return printable_lines("\n".join(lines))

    def to_markdown(self) -> str:
        """A summary, a table of failures and what to do about them, for an issue or a chat."""
        lines = [self._counts, ""]
        if self.failures:
            lines += ["| Process | Error | Where |", "| --- | --- | --- |"]
            lines += [f"| {' | '.join(map(_markdown, row))} |" for row in self._rows]
            lines += ["", self._rest] if self._rest else []
        lines += [f"- {_markdown(line)}" for line in self.recommendations()]
        return "\n".join(lines)

    def table(self) -> str:
        """Its failures as a table of HTML, to stand in a page."""
        rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in self._rows)
        rest = f"<p>{self._rest}</p>" if self._rest else ""
        head = "<tr><th>Process</th><th>Error</th><th>Where</th></tr>"
        return f'<table style="text-align:left">{head}\n{rows}</table>{rest}'

    def to_html(self) -> str:
        """The same as :meth:`to_markdown`, as a page in one piece, which needs nothing else."""
        todo = "".join(f"<li>{safe_html(line)}</li>" for line in self.recommendations())
        table = self.table() if self.failures else ""
        return html_page("Failures", f"<p>{safe_html(self._counts)}</p>\n{table}\n<ul>{todo}</ul>")

    def _repr_html_(self) -> str:
        return f"<p>{safe_html(self._counts)}</p>" + (self.table() if self.failures else "")

    @property
    def _counts(self) -> str:
        text = f"{self.total_processes} processes: {self.succeeded} succeeded, {self.failed} failed"
        return f"{text}, {self.usage.summary}" if self.usage else text

    @property
    def _rows(self) -> list[tuple[str, str, str]]:
        shown = self.failures[:_MOST_ROWS]
        return [
            (
                _name(one),
                "\n".join([error_text(one.error, 1000), *one.leaves]),
                "" if one.placement is None else one.placement.summary,
            )
            for one in shown
        ]

    @property
    def _rest(self) -> str:
        return f"and {self.failed - _MOST_ROWS} more" if self.failed > _MOST_ROWS else ""

    def _timeouts(self) -> Counter[str]:
        return Counter(_name(failure) for failure in self.failures if _is_timeout(failure))

    def _errors(self, *, timeouts: bool = True) -> Counter[tuple[str, str]]:
        return Counter(
            (_name(failure), type(failure.error).__name__)
            for failure in self.failures
            if timeouts or not _is_timeout(failure)
        )

    def _is_cascade(self) -> bool:
        moments = sorted(aware(failure.failed_at) for failure in self.failures)
        return any(later - earlier < _CASCADE for earlier, later in pairwise(moments))


def _name(failure: Failure) -> str:
    return shortened(failure.process_name, _LONGEST_NAME)


def _markdown(text: str) -> str:
    """Text in a cell of a table, or in a line."""
    marked = "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~!$@&" else sign for sign in printable_lines(text))
    return "<br>".join(marked.split("\n"))


def _cell(text: str) -> str:
    return f"<td>{'<br>'.join(map(safe_html, text.splitlines()))}</td>"


def _is_timeout(failure: Failure) -> bool:
    # What a timer gives its handler, TimerExpired, is a TimeoutError too.
    return issubclass(type(failure.error), TimeoutError)

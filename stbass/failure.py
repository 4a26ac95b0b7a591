"""What to do about failures: try again, and learn from many of them."""

from __future__ import annotations

from collections import Counter

from stbass._engine.supervise import Child, run_attempts
from stbass._process.context import Composable, ProcessContext
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, RetryPolicy
from stbass._values.report import FailureReport
from stbass._values.texts import value_text

__all__ = ["FailureAggregator", "FailurePolicy", "FailureReport", "retry_process"]


async def retry_process(process: Composable, ctx: ProcessContext, policy: RetryPolicy) -> ProcessResult:
    """Run a process here until it succeeds, as often as the policy says.

    Never sleeps past ``ctx.deadline``: when the next wait would, the last failure is the result.

    Args:
        process: what to run.
        ctx: the context of the first attempt; each further one has its own, with the next ``attempt``.
        policy: how often, and how long to wait in between.

    Returns:
        The first success, else the last failure.

    Raises:
        TypeError: the policy is not a RetryPolicy.
    """
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry_process takes a RetryPolicy, such as FailurePolicy.retry(3), got {value_text(policy)}")
    return await run_attempts(Child(process, ctx), policy)


class FailureAggregator:
    """Reports of many runs, taken together."""

    def __init__(self) -> None:
        self._reports: list[FailureReport] = []

    @property
    def reports(self) -> list[FailureReport]:
        """The reports, in the order added."""
        return list(self._reports)

    def add_report(self, report: FailureReport) -> None:
        """Take one more report into account.

        Raises:
            TypeError: it is not a FailureReport.
        """
        if not isinstance(report, FailureReport):
            raise TypeError(f"add_report takes a FailureReport, got {value_text(report)}")
        self._reports.append(report)

    def overall_summary(self) -> str:
        """One line over all reports."""
        total = sum(report.total_processes for report in self._reports)
        succeeded = sum(report.succeeded for report in self._reports)
        failed = sum(report.failed for report in self._reports)
        return f"Across {len(self._reports)} reports: {total} processes, {succeeded} succeeded, {failed} failed"

    def worst_processes(self, n: int = 5) -> list[str]:
        """Names of the ``n`` processes that failed most often, the worst first."""
        counts = Counter(failure.process_name for report in self._reports for failure in report.failures)
        return [name for name, _ in counts.most_common(n)]

"""Which processes a message may bring."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from stbass._process.call import find_function
from stbass.errors import ProcessRefused
from stbass.process import FunctionProcess, Process, known_processes

__all__ = ["Admission"]


class Admission:
    """Decides which processes may be made from a message. A worker has one; nobody else reads processes.

    Args:
        allowed: asked with each reference; None allows all that the imported modules define.
        functions: asked with the module of each plain function; None allows none.
        queue: where the message came from, for the error of one that is refused.
        worker: who refuses it.
    """

    __slots__ = ("allowed", "functions", "queue", "worker")

    def __init__(
        self,
        allowed: Callable[[str], bool] | None,
        queue: str | None = None,
        worker: str | None = None,
        functions: Callable[[str], bool] | None = None,
    ) -> None:
        self.allowed = allowed
        self.functions = functions
        self.queue = queue
        self.worker = worker

    def admit(self, reference: str) -> FunctionProcess | type[Process]:
        """The process of that reference.

        Raises:
            ProcessRefused: it is not known here, or not allowed.
        """
        found = known_processes().get(reference)
        if found is not None and (self.allowed is None or self.allowed(reference)):
            return found
        module = reference.partition(":")[0]
        reason = "does not know" if found is None else "was not told to run"
        raise self.refusal(
            reference, f"{reason} the process {reference!r}; add its module, {module!r}, to include (STBASS_INCLUDE)"
        )

    def admit_function(self, reference: str) -> FunctionType:
        """The plain function of that reference.

        Raises:
            ProcessRefused: there is no such function here, or its module is not allowed.
        """
        module = reference.partition(":")[0]
        if self.functions is None or not self.functions(module):
            raise self.refusal(
                reference,
                f"was not told to call plain functions such as {reference!r};"
                f" name their module itself, {module!r}, in stbass_functions (STBASS_FUNCTIONS)",
            )
        try:
            return find_function(reference)
        except LookupError as error:
            raise self.refusal(reference, f"cannot run the function {reference!r}: {error}") from None

    def refusal(self, reference: str, reason: str) -> ProcessRefused:
        """The error for a process that is not run."""
        who = f"worker {self.worker!r}" if self.worker else "this worker"
        where = f" on queue {self.queue!r}" if self.queue else ""
        return ProcessRefused(f"{who}{where} {reason}", reference=reference, queue=self.queue, worker=self.worker)

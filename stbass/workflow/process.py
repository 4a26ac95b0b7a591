"""A process of a workflow, which users subclass, and its place in the workflow."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from stbass._process.context import running_context
from stbass._values.arguments import MADE_WITH, remember
from stbass._values.checks import refuse_generator
from stbass._values.endpoint import Placement
from stbass._values.texts import value_text
from stbass.workflow.code import OF_BASE_CLASS, fraction, own_process, runs_here
from stbass.workflow.config import ProcessConfig, ProcessId, id_of
from stbass.workflow.protocols import WorkflowLike
from stbass.workflow.remote import define_remote
from stbass.workflow.running import run_alone
from stbass.workflow.state import ProcessMetadata, ProcessResult

__all__ = ["BaseProcess", "WorkflowNode"]


class BaseProcess(ABC):
    """A process of a workflow. Override ``process(input_data)``, or ``async def execute(input_data)``.

    Its input is a mapping from the ids of its dependencies to their :class:`ProcessResult` (see
    :meth:`get_process_result`); for a process without dependencies what ``initial_data`` has for it, else None.

    Where that code runs is the configuration's ``process_type``:

    * ``ASYNC``: on the event loop. A sync ``process`` that has a timeout runs in a thread all the same, because nothing
      could end it on the loop.
    * ``THREAD``: in a thread of a bounded pool. After a timeout the thread is abandoned: nobody waits for it any more.
    * ``PROCESS``: in a Python process of a bounded pool, started afresh (never forked). It must be picklable, and so
      must its input and what it gives back. After a timeout that Python process is killed.

    The constructor's arguments are remembered as given, so that a placed process can travel to a worker; what its
    attributes are changed to later does not travel there.

    Args:
        config: its configuration.

    Raises:
        TypeError: the configuration is not a :class:`ProcessConfig`, or the class is :class:`BaseProcess` itself.

    Attributes:
        config: its configuration.
        metadata: where it stands.
    """

    config: ProcessConfig
    metadata: ProcessMetadata
    _workflow: WorkflowLike | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls is BaseProcess:
            raise TypeError("BaseProcess is abstract: subclass it, and override process() or execute()")
        made = super().__new__(cls)
        remember(made, args, kwargs)
        return made

    def __init__(self, config: ProcessConfig) -> None:
        if not isinstance(config, ProcessConfig):
            raise TypeError(f"{type(self).__name__}: config must be a ProcessConfig, got {value_text(config)}")
        self.config = config
        self.metadata = ProcessMetadata(config.process_id)
        self._workflow = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("process", "execute"):
            if name in cls.__dict__:
                refuse_generator(cls.__dict__[name], f"{cls.__qualname__}.{name}")
        define_remote(cls)

    # To be overridden ----------------------------------------------------------------------------

    def process(self, input_data: Any) -> Any:
        """What it does, and nothing else: override this, and leave everything around it to :meth:`run`.

        Raises:
            NotImplementedError: it was not overridden.
        """
        raise NotImplementedError("Subclasses must implement process()")

    async def execute(self, input_data: Any) -> Any:
        """Run :meth:`process` where ``process_type`` says, and give back its :class:`ProcessResult`.

        An override is itself what runs there, instead of :meth:`process`; it may give back plain data.
        """
        if runs_here(self):
            # Called by its own override, through super(): that is in the right place already.
            return ProcessResult(True, await own_process(self, input_data))
        return await self.run(input_data)

    setattr(execute, OF_BASE_CLASS, True)

    # To be called --------------------------------------------------------------------------------

    async def run(self, input_data: Any = None) -> ProcessResult:
        """Run it by itself, with its validation rules, retries and timeout, and give back what happened.

        It uses the pools of the workflow that it is registered to, else pools that are closed at the end. What it
        raises never passes through: it is in the result. Cancelling this cancels the process.
        """
        return await run_alone(self, input_data, self._workflow)

    def register_to(
        self,
        workflow: WorkflowLike,
        dependencies: Iterable[str | ProcessId | BaseProcess] | None = None,
        required: bool = True,
        *,
        placement: Placement | None = None,
    ) -> Self:
        """Register it as a node of ``workflow``, and give it back.

        Args:
            dependencies: ids of processes that must have completed before, or these processes themselves.
            required: whether the workflow needs it to complete.
            placement: where to run it, instead of here.

        Raises:
            TypeError, ValueError: as from :class:`WorkflowNode` and ``Workflow.add_node``.
        """
        workflow.add_node(WorkflowNode(self, _listed(dependencies), required, placement))
        return self

    def set_workflow(self, workflow: WorkflowLike) -> None:
        """Set the workflow whose pools it uses. Called when it is added to one."""
        self._workflow = workflow

    def report_progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is: ``done`` of ``total`` in any unit; without a total, ``done`` is a fraction of 1.

        It is in ``metadata.progress`` from then on, wherever the process runs.
        """
        self.metadata.progress = fraction(done, total)
        ctx = running_context()
        if ctx is not None:
            ctx.progress(done, 1.0 if total is None else total, note)

    @classmethod
    def get_process_result(cls, input_data: Any, process_id: str | ProcessId | BaseProcess) -> Any:
        """The data of one of the results that a process was given.

        Raises:
            ValueError: there is none of that id, or the process did not complete, or what is there is no result.
        """
        key = id_of(process_id)
        if not isinstance(input_data, Mapping) or key not in input_data:
            known = ", ".join(map(str, input_data)) if isinstance(input_data, Mapping) else repr(input_data)
            raise ValueError(f"Required process {key} not found in input data; there are: {known or 'none'}")
        result = input_data[key]
        if not isinstance(result, ProcessResult):
            raise ValueError(f"Expected ProcessResult for {key}, got {type(result)}")
        if not result.success:
            raise ValueError(f"Process {key} did not complete successfully: {result.error_type}: {result.error}")
        return result.data

    # Underneath ----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # What goes to another Python process is what it computes with: not the workflow around it, nor how it stands,
        # nor the rules, which have been followed by then and are often lambdas.
        config = replace(self.config, validation_rules=None)
        fresh = {"config": config, "metadata": ProcessMetadata(config.process_id), "_workflow": None}
        # Its constructor's arguments need not be picklable; without them, it cannot go to a worker.
        return {**self.__dict__, **fresh, MADE_WITH: None}

    def __repr__(self) -> str:
        config = self.__dict__.get("config")
        return f"<{type(self).__name__} {config.process_id if config is not None else 'without a config'!s}>"


def _listed(dependencies: Any) -> Any:
    """A list of them, where that is possible; what is none is for the node to refuse."""
    if dependencies is None:
        return []
    return dependencies if isinstance(dependencies, (str, ProcessId)) else list(dependencies)


@dataclass(frozen=True, eq=False)
class WorkflowNode:
    """A process's place in a workflow.

    Args:
        process: the process.
        dependencies: what must have ended before it starts: ids of processes, or these processes themselves.
        required: whether the workflow needs it to complete. What depends on a process that is not required and did not
            complete runs without its result; what depends on a required one is skipped.
        placement: where to run it, instead of here: the registry's backend for it does, as in ``PLACED_PAR``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: it depends on itself, or twice on the same process.
    """

    process: BaseProcess
    dependencies: Sequence[str | ProcessId | BaseProcess] = ()
    required: bool = True
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.process, "config", None), ProcessConfig):
            given: Any = self.process
            hint = "; its __init__ must call super().__init__(ProcessConfig(...))" if hasattr(given, "process") else ""
            raise TypeError(f"WorkflowNode takes a BaseProcess that has a config, got {value_text(given)}{hint}")
        if isinstance(self.dependencies, (str, ProcessId)) or not isinstance(self.dependencies, Iterable):
            raise TypeError(
                f"the dependencies of {self.process_id!r} must be a list, got {value_text(self.dependencies)}"
            )
        if not isinstance(self.required, bool):
            raise TypeError(f"{self.process_id!r}: required must be True or False, got {value_text(self.required)}")
        if not isinstance(self.placement, (Placement, type(None))):
            raise TypeError(
                f"{self.process_id!r}: placement must be a Placement or None, got {value_text(self.placement)}"
            )
        found: dict[str, None] = {}
        for dependency in self.dependencies:
            name = id_of(dependency, f"a dependency of {self.process_id!r}")
            if name == self.process_id:
                raise ValueError(f"node {name!r} depends on itself")
            if name in found:
                raise ValueError(f"node {self.process_id!r} depends on {name!r} twice")
            found[name] = None
        object.__setattr__(self, "dependencies", list(self.dependencies))
        object.__setattr__(self, "_depends_on", tuple(found))

    _depends_on = ()

    @property
    def process_id(self) -> str:
        """The id of its process, as a text."""
        return str(self.process.config.process_id)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The ids of its dependencies, as texts."""
        return self._depends_on

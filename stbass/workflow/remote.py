"""How a process of a workflow travels: as a process of the core, known by the reference of its class.

For each class of workflow processes there is a class of processes of the core, made with it and known by the same
``module:qualname``. So a worker that was told to import that module may run it, and knows by itself how; one that was
not refuses it, as it does any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stbass._process.context import ProcessContext
from stbass._values.arguments import made_with
from stbass.errors import NotTransportable
from stbass.process import Process
from stbass.workflow.code import run_code
from stbass.workflow.config import ProcessConfig
from stbass.workflow.protocols import ProcessLike

__all__ = ["Remote", "define_remote", "remote_of"]

_remotes: dict[type[Any], type[Remote]] = {}


class Remote(Process):
    """A process of a workflow as the core runs it, here or elsewhere.

    Its own code decides how: ``execute`` runs on the event loop, a sync ``process`` in a thread.

    Args:
        args, kwargs: what the constructor of the workflow's process was given.
        input_data: its input.
    """

    target: type[ProcessLike]
    _local: ProcessLike | None = None

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], input_data: Any = None) -> None:
        self.args = args
        self.kwargs = kwargs
        self.input_data = input_data

    async def run(self, ctx: ProcessContext) -> Any:
        """Run its code; elsewhere, that of one that is made anew from the same arguments."""
        process = self.target(*self.args, **self.kwargs) if self._local is None else self._local
        return await run_code(process, self.input_data, thread=True)

    def __reduce__(self) -> tuple[Any, ...]:
        # Its class is found under the name of the class it is for, so pickle would take that one.
        return _remade, (self.target, self.args, self.kwargs, self.input_data, self._name)


def define_remote(target: type[ProcessLike]) -> None:
    """Make the class by which the processes of ``target`` travel."""
    names = {"__module__": target.__module__, "__qualname__": target.__qualname__, "target": target}
    _remotes[target] = type(target.__name__, (Remote,), names)


def remote_of(process: ProcessLike, input_data: Any = None) -> Remote:
    """``process`` as one of the core's that can travel. Where it does not, it is ``process`` itself that runs.

    Raises:
        NotTransportable: it is a copy, of which nobody knows what its constructor was given.
    """
    noted = made_with(process)
    if noted is None:
        raise NotTransportable(
            f"process {process.config.process_id!s} is a copy: it cannot travel, because it was not made by its"
            " constructor; make one that was"
        )
    args, kwargs = noted
    made = _remotes[type(process)](
        tuple(_without_rules(value) for value in args),
        {name: _without_rules(value) for name, value in kwargs.items()},
        input_data,
    )
    made._local = process
    return made.with_name(str(process.config.process_id))


def _without_rules(value: Any) -> Any:
    """A configuration without its rules, for its input and for retries: they are followed here, and do not travel."""
    if not isinstance(value, ProcessConfig):
        return value
    strategy = value.retry_strategy
    if strategy is not None and (strategy.on or strategy.unless or strategy.wait):
        value = replace(value, retry_strategy=replace(strategy, on=(), unless=(), wait=None))
    return value if value.validation_rules is None else replace(value, validation_rules=None)


def _remade(
    target: type[ProcessLike], args: tuple[Any, ...], kwargs: Mapping[str, Any], input_data: Any, name: str | None
) -> Remote:
    made = _remotes[target](args, kwargs, input_data)
    return made if name is None else made.with_name(name)

"""The channels of a stage: what is before it in a sequence, and what comes after it.

In a sequence the stages run one after the other, so there is nobody to meet on the other side of these channels:

* ``input`` has all that the stage before has passed on, and is then closed: a stage may receive it, or not.
* ``output`` takes whatever the stage sends, at once. The last value is the stage's value, and wins over what it
  returns; if it sends several, the next stage finds all of them on its ``input``, in that order.

They are real channels, with types, statistics and guards, and are made when the stage first looks for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stbass.channel import Chan
from stbass.context import ProcessContext
from stbass.transports.base import NOTHING

__all__ = ["StageContext"]

_ANY_NUMBER = 2**63


class StageContext(ProcessContext):
    """The context of a stage, whose ``input`` has the values ``given``.

    A backend that runs a stage elsewhere sends ``_given`` and ``_own_channels()`` there, makes a StageContext of them,
    and brings back ``_sent`` if it is not empty.
    """

    def __init__(
        self,
        process_name: str,
        given: tuple[Any, ...],
        channels: Mapping[str, Chan[Any]] | None = None,
        parent: str | None = None,
    ) -> None:
        self.process_name = process_name
        self.parent = parent
        self.placement = None
        self._given = given
        self._others = channels

    # Made when first asked for: most stages return their value, and never look at their input.
    _made: dict[str, Chan[Any]] | None = None
    _output: Chan[Any] | None = None
    _brought: list[Any] | None = None

    @property
    def channels(self) -> dict[str, Chan[Any]]:
        """Named channels: those of the composition around it, ``input`` and ``output``."""
        if self._made is None:
            self._output = Chan(object, name=f"{self.process_name}.output", capacity=_ANY_NUMBER)
            self._made = {
                **(self._others or {}),
                "input": _filled(f"{self.process_name}.input", self._given or ()),
                "output": self._output,
            }
        return self._made

    @channels.setter
    def channels(self, value: dict[str, Chan[Any]]) -> None:
        self._made = value

    @property
    def _sent(self) -> list[Any] | None:
        if self._output is not None:
            link = self._output._link
            sent = [] if self._brought is None else self._brought
            while (value := link.try_take()) is not NOTHING:
                sent.append(value)
            self._brought = sent
        return self._brought

    @_sent.setter
    def _sent(self, value: list[Any] | None) -> None:
        self._brought = value

    def _own_channels(self) -> dict[str, Chan[Any]]:
        return dict(self._others or {})

    def _next_attempt(self) -> ProcessContext:
        made = super()._next_attempt()
        if isinstance(made, StageContext):
            made._made = made._output = made._brought = None
        return made


def _filled(name: str, values: tuple[Any, ...]) -> Chan[Any]:
    made: Chan[Any] = Chan(object, name=name, capacity=max(1, len(values)))
    for value in values:
        made._link.try_offer(value)
    made.close()
    return made

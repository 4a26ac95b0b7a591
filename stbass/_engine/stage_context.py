"""The channels of a stage: what is before it in a sequence, and what comes after it.

In a sequence the stages run one after the other, so there is nobody to meet on the other side of these channels:

* ``input`` has all that the stage before has passed on, and is then closed: a stage may receive it, or not.
* ``output`` takes whatever the stage sends, at once. The last value is the stage's value, and wins over what it
  returns; if it sends several, the next stage finds all of them on its ``input``, in that order.

They are real channels, with types, statistics and guards. They are made when the stage asks for one as a channel;
``ctx.recv("input")`` and ``ctx.send("output", value)`` alone do without, at a tenth of the price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stbass._channels.transport import NOTHING
from stbass._process.context import ProcessContext
from stbass.channel import Chan

__all__ = ["StageContext"]

_ANY_NUMBER = 2**63


class StageContext(ProcessContext):
    """The context of a stage, whose ``input`` has the values ``given``.

    A backend that runs a stage elsewhere sends ``_given`` and ``_own_channels()`` there, makes a StageContext of them,
    and brings back ``_sent`` if it is not empty.
    """

    placement = None
    # Channels of the composition around it, and those bound to the process itself, which go before the stage's own.
    _outer: Mapping[str, Chan[Any]] = {}
    _bound: Mapping[str, Chan[Any]] = {}
    # All channels together, once they are asked for, and the output among them.
    _made: dict[str, Chan[Any]] | None = None
    _output: Chan[Any] | None = None
    # How many of the given values were received, and what was sent, without a channel or elsewhere.
    _taken: int = 0
    _put: list[Any] | None = None

    def __init__(
        self,
        process_name: str,
        given: tuple[Any, ...],
        channels: Mapping[str, Chan[Any]] | None = None,
        parent: str | None = None,
    ) -> None:
        self.process_name = process_name
        self.parent = parent
        self._given = given
        if channels:
            self._outer = channels

    @property
    def channels(self) -> dict[str, Chan[Any]]:
        """Named channels: those of the composition around it, ``input`` and ``output``, and those of the process."""
        if self._made is None:
            name = self.process_name
            given = self._given or ()
            stage_input: Chan[Any] = Chan(object, name=f"{name}.input", capacity=max(1, len(given)))
            self._output = Chan(object, name=f"{name}.output", capacity=_ANY_NUMBER)
            self._made = {**self._outer, "input": stage_input, "output": self._output, **self._bound}
            for value in given:
                stage_input.link.try_offer(value)
            for _ in range(self._taken):
                stage_input.link.try_take()
            stage_input.close()
            for value in self._put or ():
                self._output.link.try_offer(value)
            self._put = None
        return self._made

    @channels.setter
    def channels(self, value: dict[str, Chan[Any]]) -> None:
        self._made = value

    async def recv(self, channel_name: str) -> Any:
        """See :meth:`ProcessContext.recv`."""
        if channel_name == "input" and self._made is None and "input" not in self._bound:
            given, taken = self._given, self._taken
            if given is not None and taken < len(given):
                self._taken = taken + 1
                return given[taken]
        return await super().recv(channel_name)

    async def send(self, channel_name: str, value: Any) -> None:
        """See :meth:`ProcessContext.send`."""
        if channel_name == "output" and self._made is None and "output" not in self._bound:
            if self._put is None:
                self._put = [value]
            else:
                self._put.append(value)
            return
        await super().send(channel_name, value)

    @property
    def _sent(self) -> list[Any] | None:
        if self._output is not None:
            sent = [] if self._put is None else self._put
            while (value := self._output.link.try_take()) is not NOTHING:
                sent.append(value)
            self._put = sent
        return self._put

    @_sent.setter
    def _sent(self, value: list[Any] | None) -> None:
        self._put = value

    def _bind(self, channels: Mapping[str, Chan[Any]]) -> None:
        self._bound = {**self._bound, **channels}
        if self._made is not None:
            self._made.update(channels)

    def _own_channels(self) -> dict[str, Chan[Any]]:
        return {**self._outer, **self._bound}

    def _next_attempt(self) -> ProcessContext:
        made = super()._next_attempt()
        if isinstance(made, StageContext):
            made._made = made._output = made._put = None
            made._taken = 0
        return made

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
from typing import Any, Self

from stbass._process.context import ProcessContext
from stbass.channel import Chan

__all__ = ["StageContext"]

_ANY_NUMBER = 2**63


class StageContext(ProcessContext):
    """The context of a stage, whose ``input`` has the values ``given``.

    A backend that runs a stage elsewhere sends there what :func:`given_to` and :func:`own_channels` say of its context,
    makes a StageContext of that, and brings back what :func:`sent_by` says there, for :func:`note_sent` here.
    """

    placement = None
    # Channels of the composition around it, and those bound to the process itself, which go before the stage's own.
    _outer: Mapping[str, Chan[Any]] = {}
    _bound: Mapping[str, Chan[Any]] = {}
    # All channels together, once they are asked for.
    _made: dict[str, Chan[Any]] | None = None
    # How many of the given values were received without a channel.
    _taken: int = 0

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
        self._taken = 0
        self._made = self._output = self._sent = self._held = self._latest = self._thread = None
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
            for value in self._sent or ():
                self._output.link.try_offer(value)
            self._sent = None
        return self._made

    @channels.setter
    def channels(self, value: dict[str, Chan[Any]]) -> None:
        self._made = value

    async def _recv(self, channel_name: str) -> Any:
        if channel_name == "input" and self._made is None and "input" not in self._bound:
            given, taken = self._given, self._taken
            if given is not None and taken < len(given):
                self._taken = taken + 1
                return given[taken]
        return await super()._recv(channel_name)

    async def _send(self, channel_name: str, value: Any) -> None:
        if channel_name == "output" and self._made is None and "output" not in self._bound:
            if self._sent is None:
                self._sent = [value]
            else:
                self._sent.append(value)
            return
        await super()._send(channel_name, value)

    def _bind(self, channels: Mapping[str, Chan[Any]]) -> None:
        self._bound = {**self._bound, **channels}
        if self._made is not None:
            self._made.update(channels)

    def _own_channels(self) -> dict[str, Chan[Any]]:
        return {**self._outer, **self._bound}

    def _again(self) -> Self:
        made = super()._again()
        made._made = None
        made._taken = 0
        return made

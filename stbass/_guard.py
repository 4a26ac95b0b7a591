"""What a choice waits for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from stbass.channel import Chan
from stbass.timer import DEADLINE, TIMER
from stbass.transports.base import NOTHING

__all__ = ["SKIP", "Guard"]


class _Skip(Enum):
    SKIP = "skip"

    def __repr__(self) -> str:
        return "SKIP"


SKIP: Final = _Skip.SKIP
"""What is always ready, and wins only when nothing else is."""


class Guard:
    """One of the things a choice waits for.

    Args:
        channel: a channel to receive from (or to send to: see ``send``), a :class:`TIMER`, a :class:`DEADLINE`, or
            ``SKIP``. A closed channel is ready: if it is chosen, the choice raises ``ChannelClosedError``.
        precondition: whether the guard takes part. A callable is asked when the choice starts, and again when a
            partner comes to one of the choice's channels or :meth:`ALT.recheck` is called; nothing polls it.
        handler: called with what the guard gives if it wins (or with nothing, if it takes no argument); may be async.
            What it returns is the choice's result.
        send: makes it an output guard: ready when a receiver waits for a value, which then gets this one.

    A channel gives the value received, an output guard the value sent, a timer a
    :class:`~stbass.timer.TimerExpired`, ``SKIP`` None.

    Raises:
        TypeError: ``channel`` is nothing that can be waited for, or ``send`` is given for something else.
    """

    __slots__ = ("_takes_value", "channel", "handler", "precondition", "send")

    def __init__(
        self,
        channel: Chan[Any] | TIMER | DEADLINE | _Skip,
        precondition: bool | Callable[[], bool] = True,
        handler: Callable[..., Any] | None = None,
        *,
        send: Any = NOTHING,
    ) -> None:
        if not isinstance(channel, Chan):
            if not isinstance(channel, (TIMER, DEADLINE, _Skip)):
                raise TypeError(f"a guard waits for a Chan, a TIMER, a DEADLINE or SKIP, not {channel!r}")
            if send is not NOTHING:
                raise TypeError(f"only a channel can be sent to, not {channel!r}")
        self.channel = channel
        self.precondition = precondition
        self.handler = handler
        self.send = send
        self._takes_value: bool | None = None

    @property
    def is_eligible(self) -> bool:
        """Whether its precondition holds now."""
        return bool(self.precondition()) if callable(self.precondition) else bool(self.precondition)

    async def handle(self, handler: Callable[..., Any], value: Any) -> Any:
        """Call the handler with the value, or without one, and wait for it if it is async."""
        if self._takes_value is None:
            self._takes_value = _takes_argument(handler)
        result = handler(value) if self._takes_value else handler()
        return await result if inspect.isawaitable(result) else result

    def __repr__(self) -> str:
        offer = "" if self.send is NOTHING else ", send=…"
        return f"Guard({self.channel!r}{offer})"


def _takes_argument(handler: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except ValueError:
        return True  # some builtins do not say; those worth being a handler take a value
    return any(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)

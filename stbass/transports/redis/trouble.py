"""What an error of Redis means: the server is away, it refuses for now, or it never will do what it was asked.

The first two pass by themselves: a restart, a failover, a disk or memory that is full, a rule that an administrator is
just changing. Who serves others waits them out, says so once, and once more when they are over. The third is about what
was asked (a key of another type, a script that fails, a command that the server does not have): it fails only that.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis

from stbass._values.texts import message_of
from stbass.transports.redis.address import NOT_LET_IN, RedisAddress

__all__ = ["LONGEST_PAUSE", "Trouble", "Vigil", "is_forbidden", "trouble_of", "waited_out"]

LONGEST_PAUSE = 1.0
_FIRST_PAUSE = 0.05

# As the server writes them at the beginning of an answer, and, from a script of Redis 6.2, somewhere in it.
_FOR_NOW = re.compile(
    r"(?<![A-Za-z0-9_])(?:OOM|MISCONF|NOREPLICAS|READONLY|LOADING|BUSY|TRYAGAIN|MASTERDOWN|CLUSTERDOWN|NOPERM|NOAUTH"
    r"|UNBLOCKED) "
    r"|user executing the script can't run|max number of clients reached"
)
_FORBIDDEN = re.compile(r"NOPERM |has no permissions to|user executing the script can't run")
_CLASSES_FOR_NOW = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)

T = TypeVar("T")


class Trouble(enum.Enum):
    """What kind of error it is."""

    AWAY = "is away"
    FOR_NOW = "refuses for now"
    NEVER = "refuses"


def trouble_of(error: BaseException) -> Trouble:
    """The kind of an error that a command raised, of whichever client."""
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError, EOFError)) and not isinstance(
        error, redis.BusyLoadingError
    ):
        return Trouble.AWAY
    # Also of hiredis, which channels read with: its errors have no classes of their own.
    if isinstance(error, _CLASSES_FOR_NOW) or _FOR_NOW.search(message_of(error)):
        return Trouble.FOR_NOW
    return Trouble.NEVER


def is_forbidden(error: BaseException) -> bool:
    """Whether the server does not let this user do it: for now, if it let him before."""
    return isinstance(error, redis.exceptions.NoPermissionError) or _FORBIDDEN.search(message_of(error)) is not None


class Vigil:
    """Waiting until a server is well again: pauses that grow, one line in the log at the beginning and one at the end.

    Args:
        doing: what cannot be done meanwhile, for the log.
        address: of the server; or what to call it, if it is no Redis.
        log: where it is told.
        longest: seconds of a pause at most.
    """

    def __init__(
        self, doing: str, address: RedisAddress | str, log: logging.Logger, longest: float = LONGEST_PAUSE
    ) -> None:
        self._doing = doing
        self._server = address if isinstance(address, str) else f"Redis at {address}"
        self._log = log
        self._longest = longest
        self._pause = 0.0
        self._since = 0.0

    @property
    def lasts(self) -> float:
        """Seconds since the trouble began; 0 if there is none."""
        return time.monotonic() - self._since if self._pause else 0.0

    def pause(self, error: BaseException) -> float:
        """How many seconds to wait until the next attempt.

        Raises:
            BaseException: the error itself, if waiting does not help.
        """
        trouble = trouble_of(error)
        if trouble is Trouble.NEVER:
            raise error
        if not self._pause:
            self._since = time.monotonic()
            self._log.warning(
                "cannot %s: %s %s (%s); trying again until it is well",
                self._doing,
                self._server,
                NOT_LET_IN if isinstance(error, redis.AuthenticationError) else trouble.value,
                message_of(error, 300) or type(error).__name__,
            )
        self._pause = min(self._longest, 2 * self._pause or _FIRST_PAUSE)
        return self._pause

    def over(self) -> None:
        """The server has done what it was asked."""
        if self._pause:
            self._log.warning("%s is well again after %.1f s: can %s", self._server, self.lasts, self._doing)
            self._pause = 0.0


async def waited_out(
    step: Callable[[], Awaitable[T]], vigil: Vigil, *, seconds: float | None = None, away: bool = True
) -> T:
    """Do ``step`` until the server is well; it may be done more than once.

    Args:
        seconds: how long to try at most; None: for ever.
        away: whether to wait for a server that is away, or lets us do nothing, too: not so if it never did what it was
            asked. Then the URL may be wrong, or the user.

    Raises:
        BaseException: what the step raised last: the time is over, or waiting does not help.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        try:
            found = await step()
        except Exception as error:
            if not away and (trouble_of(error) is Trouble.AWAY or is_forbidden(error)):
                raise
            pause = vigil.pause(error)
            if until is not None and time.monotonic() + pause > until:
                raise
            await asyncio.sleep(pause)
        else:
            vigil.over()
            return found

"""``stbass limit``: how many processes of an endpoint the whole fleet runs at once, and begins in a time."""

from __future__ import annotations

from contextlib import closing

import msgspec
import redis
import typer

from stbass._values.limits import Limit
from stbass.backends.celery.line import LimitState, WaitingLine
from stbass.backends.celery.settings import fleet_of
from stbass.cli.named import load_application
from stbass.errors import ConfigurationError
from stbass.transports.redis.address import unavailable

__all__ = ["run_limit"]

_NONE = "none"


def run_limit(endpoint: str, running: str | None, rate: str | None, off: bool, as_json: bool, app: str) -> None:
    """Set what is given, leave the rest as it is, and show the limit as it is then.

    Raises:
        ConfigurationError: an option is not what it must be, or the application cannot be loaded.
        BackendUnavailableError: Redis cannot be reached.
    """
    if not endpoint.strip() or "," in endpoint:
        raise ConfigurationError(f"{endpoint!r} is not the name of an endpoint")
    if off and (running or rate) is not None:
        raise ConfigurationError("--off lifts all limits of the endpoint: leave out --running and --rate")
    changes = {**_part("--running", running), **_part("--rate", rate)}
    fleet = fleet_of(load_application(app))
    with closing(WaitingLine(fleet.settings, fleet.result_prefix, fleet.app)) as line:
        try:
            state = line.limit(endpoint)
            if off or changes:
                known = Limit() if off or state.limit is None else state.limit
                state = line.limit(endpoint, msgspec.structs.replace(known, **changes))
        except (redis.RedisError, OSError) as error:
            raise unavailable(fleet.settings.backend, f"look at the limit of {endpoint!r}", error) from error
    typer.echo(_json(endpoint, state) if as_json else _text(endpoint, state))


def _part(option: str, text: str | None) -> dict[str, int | None]:
    """What an option changes; ``none`` lifts that part of the limit."""
    is_rate = option == "--rate"
    if text is None:
        return {}
    if text.strip().lower() == _NONE:
        return {"rate": None} if is_rate else {"running": None}
    limit = Limit.parse(text, option)
    if (limit.running is not None and limit.rate is not None) or (limit.rate is not None) is not is_rate:
        wanted = "a rate, such as 1000/min, or none" if is_rate else "a number, such as 50, or none"
        raise ConfigurationError(f"{option}={text!r}: must be {wanted}")
    return {"rate": limit.rate, "per": limit.per} if is_rate else {"running": limit.running}


def _text(endpoint: str, state: LimitState) -> str:
    now = f"{state.running} running, {state.waiting} waiting"
    if state.limit is None or state.limit.is_none:
        return f"{endpoint}: no limit"
    parts = [] if state.limit.running is None else [f"{state.limit.running} at once"]
    by = ", by the settings" if state.by == "settings" else ""
    return f"{endpoint}: {', '.join([*parts, *state.limit.rate_text])}{by}; {now}"


def _json(endpoint: str, state: LimitState) -> str:
    limit = state.limit or Limit()
    return msgspec.json.encode(
        {
            "endpoint": endpoint,
            "limit": {"running": limit.running, "rate": "".join(limit.rate_text) or None},
            "by": state.by,
            "running": state.running,
            "waiting": state.waiting,
        }
    ).decode()

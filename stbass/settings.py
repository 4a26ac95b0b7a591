"""Settings of a fleet's application, all of them from the environment, all of them checked at the start.

``python -m stbass.settings`` prints the page that documents them (``docs/settings.md``).
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from stbass._values.limits import limits_of
from stbass.errors import ConfigurationError, MissingDependencyError

try:
    from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
    from pydantic_core import PydanticUseDefault
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
except ImportError as _error:
    raise MissingDependencyError(
        f"settings need pydantic-settings ({_error}): pip install 'stbass-celery[celery]'"
    ) from _error

__all__ = ["ASYNCIO_CONCURRENCY", "POOLS", "Settings", "page", "variables"]

POOLS = {
    "asyncio": "stbass.backends.celery.pool:AsyncioPool",
    "prefork": "prefork",
    "threads": "threads",
    "solo": "solo",
}
_REDIS = ("redis", "rediss", "redis+socket", "sentinel")
_AMQP = ("amqp", "amqps", "pyamqp")
_DEFAULT_REDIS = "redis://localhost:6379/0"
ASYNCIO_CONCURRENCY = 1000
_KEY_CHARACTERS = 16
_LONGEST_PREFIX = 200
_PREFIX = "STBASS_"
_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
"""What Kubernetes tells a pod of each Service, whose own name may be that of a setting (``STBASS_REGISTRY_PORT``)."""
_PAGE = """\
# Settings

`stbass worker`, `stbass dev`, `celery -A stbass.app worker` and `celery -A celery_app worker` read these environment
variables. An empty one counts as not set. A wrong one is refused at the start: the error names the variable and says
what is wrong with it, and never shows a secret. A program that uses `stbass.app.app` reads the same ones.

| variable | meaning | default |
|---|---|---|
{rows}

An application of your own has settings of its own: those of Celery, and the `stbass_…` ones of
`stbass.backends.celery.make_app`.

This page is generated: `python -m stbass.settings > docs/settings.md`.
"""


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        # Nothing of the text goes into a reason but the scheme: a password may stand anywhere in a wrong URL.
        for part in text.split(";"):
            scheme, separator, _ = part.partition("://")
            if not separator or scheme not in schemes:
                raise ValueError(f"must be a URL that starts with one of {', '.join(s + '://' for s in schemes)}")
            if scheme == "redis+socket":
                continue
            try:
                split = urlsplit(part)
                valid = bool(split.hostname) and (split.port is None or split.port > 0)
            except ValueError:
                valid = False
            if not valid:
                raise ValueError(f"must be {scheme}://[user:password@]host[:port]/…; host or port is missing or wrong")
        return text

    return parse


def _number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            lower = f"{'more than' if above else 'at least'} {least:g}"
            raise ValueError(f"must be a number of seconds, {lower} and at most {most:.10g}")
        return value

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,18}", text) else -1
        if not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return parse


def _modules(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"must be modules joined with commas, and {name!r} is not the name of one")
    return names


def _reference(text: str) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError("must be module:name")
    return text


def _pool(text: str) -> str:
    if text not in POOLS:
        raise ValueError(f"must be one of {', '.join(POOLS)}")
    return text


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("must be text or json")
    return text


def _key(text: str) -> str:
    if len(text) < _KEY_CHARACTERS:
        raise ValueError(
            f"must have at least {_KEY_CHARACTERS} characters; make one: python -c 'import secrets;"
            " print(secrets.token_hex(32))'"
        )
    return text


def _text(text: str) -> str:
    return text


def _limits(text: str) -> dict[str, str]:
    try:
        limits = json.loads(text)
        limits_of(limits, "limits")
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a JSON object of limits by endpoint ({error})") from None
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return {endpoint: str(limit) for endpoint, limit in limits.items()}


def _key_prefix(text: str) -> str:
    if not text.isprintable() or len(text) > _LONGEST_PREFIX:
        raise ValueError(f"must be at most {_LONGEST_PREFIX} characters, none of them a control character")
    return text


def _setting(
    variable: str,
    parse: Callable[[str], Any],
    meaning: str,
    *,
    default: Any = None,
    shown: str | None = None,
    secret: bool = False,
) -> Any:
    """A field that is read from ``variable``; ``shown`` is what the documentation says the default is."""
    shown = f"`{default}`" if shown is None else shown
    extra: dict[str, Any] = {"parse": parse, "shown": shown, "secret": secret}
    return Field(default, validation_alias=variable, description=meaning, repr=not secret, json_schema_extra=extra)


class Settings(BaseSettings):
    """What the application is set to. Make one with :meth:`from_environment`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True, hide_input_in_errors=True)

    broker_url: str = _setting(
        "STBASS_BROKER_URL",
        _url(*_REDIS, *_AMQP),
        "Where the queues are: Redis 6.2+ or Valkey (`redis://`, `rediss://`, `redis+socket://`, `sentinel://`), or"
        " RabbitMQ (`amqp://`).",
        default=_DEFAULT_REDIS,
        secret=True,
    )
    result_backend: str | None = _setting(
        "STBASS_RESULT_BACKEND",
        _url(*_REDIS),
        "Where results, leases and checkpoints are: Redis or Valkey.",
        shown="the broker, if that is Redis",
        secret=True,
    )
    sentinel_master: str | None = _setting(
        "STBASS_SENTINEL_MASTER",
        _text,
        "Name of the master that the Sentinels watch; needed with a `sentinel://` URL.",
        shown="none",
    )
    key_prefix: str | None = _setting(
        "STBASS_KEY_PREFIX",
        _key_prefix,
        "What every key and every channel of this fleet in Redis begins with, e.g. `mine:` (Celery's"
        " `global_keyprefix`): for several fleets on one server. Producers and workers need the same one.",
        shown="none",
    )
    include: Annotated[tuple[str, ...], NoDecode] = _setting(
        "STBASS_INCLUDE",
        _modules,
        "Modules whose processes a worker may run, joined with commas. It imports no others.",
        default=(),
        shown="none; of `celery_app`, its example agents: `celery_app.agents`",
    )
    functions: Annotated[tuple[str, ...], NoDecode] = _setting(
        "STBASS_FUNCTIONS",
        _modules,
        "Modules whose public functions a worker may call for task lists, joined with commas. It imports them too.",
        default=(),
        shown="none",
    )
    registry: str | None = _setting(
        "STBASS_REGISTRY",
        _reference,
        "The `BackendRegistry` (`module:name`) in which a worker looks up the placements of what runs in it.",
        shown="every endpoint is a queue of the same fleet",
    )
    limits: Annotated[dict[str, str], NoDecode] = _setting(
        "STBASS_LIMITS",
        _limits,
        "How many processes of an endpoint the whole fleet runs at once, and begins in a time, as JSON:"
        ' `{"anthropic": "50, 1000/min"}`. What `stbass limit` sets counts more; see [limits](limits.md).',
        default={},
        shown="no limits",
    )
    signing_key: str | None = _setting(
        "STBASS_SIGNING_KEY",
        _key,
        "Secret that producers and workers share, at least 16 characters. With it every message and every result is"
        " signed, and one that is not is refused.",
        shown="none: nothing is signed",
        secret=True,
    )
    pool: str = _setting(
        "STBASS_POOL",
        _pool,
        "How a worker runs processes: `asyncio` (one event loop, thousands of waiting processes), or one of Celery's"
        " own pools: `prefork`, `threads`, `solo`.",
        default="asyncio",
    )
    concurrency: int | None = _setting(
        "STBASS_CONCURRENCY",
        _whole(1, 1_000_000),
        "How many processes one worker runs at once.",
        shown=f"`{ASYNCIO_CONCURRENCY}` with the pool `asyncio`, else the number of CPUs",
    )
    lease: float = _setting(
        "STBASS_LEASE",
        _number(0.1, 86400),
        "Seconds after which a worker that is not heard of counts as lost.",
        default=10.0,
        shown="`10`",
    )
    grace: float = _setting(
        "STBASS_GRACE",
        _number(0, 86400),
        "Seconds that running processes get to end after SIGTERM, before they are handed to another worker.",
        default=10.0,
        shown="`10`",
    )
    max_message_bytes: int = _setting(
        "STBASS_MAX_MESSAGE_BYTES",
        _whole(1024, 512 * 2**20),
        "Largest message and largest result, in bytes.",
        default=16 * 2**20,
        shown="`16777216` (16 MiB)",
    )
    result_expires: float = _setting(
        "STBASS_RESULT_EXPIRES",
        _number(0, 3e9, above=True),
        "Seconds that results are kept.",
        default=86400.0,
        shown="`86400` (a day)",
    )
    log_format: str = _setting(
        "STBASS_LOG_FORMAT",
        _log_format,
        "What a worker's log is written as: `text`, or `json` (one object per line, for those who collect logs).",
        default="text",
        shown="`text`",
    )
    llm_url: str | None = _setting(
        "STBASS_LLM_URL",
        _url("http"),
        "The chat-completions server that the example agents ask (`python -m stbass.testing.fake_llm` is one).",
        shown="none: the example agents fail and say so",
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check the settings; a variable that is empty counts as not set.

        Raises:
            ConfigurationError: one is wrong, or is misspelt; the message names it and says why, without its value if
                that is a secret.
        """
        _refuse_misspelt()
        try:
            return cls()
        except ValidationError as refused:
            found = refused.errors()[0]
            reason = found.get("ctx", {}).get("error", found["msg"])
            variable = str(found["loc"][0]) if found["loc"] else str(reason).partition(":")[0]
        what = f"{_what(cls, variable)}: {reason}" if found["loc"] else str(reason)
        raise ConfigurationError(what, variable=variable)

    @field_validator("*", mode="before")
    @classmethod
    def _parse(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the text of a variable."""
        if not isinstance(value, str):
            return value
        if not value.strip():
            raise PydanticUseDefault
        return _details(cls, str(info.field_name))["parse"](value.strip())

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        urls = {"STBASS_BROKER_URL": self.broker_url, "STBASS_RESULT_BACKEND": self.result_backend or ""}
        for variable, url in urls.items():
            if self.sentinel_master is None and url.startswith("sentinel://"):
                raise ValueError(
                    f"STBASS_SENTINEL_MASTER: must be set, to the name of the master, when {variable} is a sentinel://"
                    " URL"
                )
        if self.result_backend is None and self.broker_url.partition("://")[0] not in _REDIS:
            raise ValueError(
                "STBASS_RESULT_BACKEND: must be set when STBASS_BROKER_URL is not Redis, e.g. redis://localhost:6379/0"
            )
        return self

    def for_celery(self) -> dict[str, Any]:
        """The arguments for :func:`stbass.backends.celery.make_app`."""
        made: dict[str, Any] = {
            "broker_url": self.broker_url,
            "result_backend": self.result_backend or self.broker_url,
            "include": self.include,
            "worker_pool": POOLS[self.pool],
            "worker_concurrency": self.concurrency or (ASYNCIO_CONCURRENCY if self.pool == "asyncio" else None),
            "result_expires": self.result_expires,
            "stbass_functions": self.functions,
            "stbass_lease": self.lease,
            "stbass_grace": self.grace,
            "stbass_max_message_bytes": self.max_message_bytes,
            "stbass_log_format": self.log_format,
        }
        if self.limits:
            made["stbass_limits"] = self.limits
        if self.registry is not None:
            made["stbass_registry"] = self.registry
        if self.signing_key is not None:
            made["stbass_signing_key"] = self.signing_key
        options = {"master_name": self.sentinel_master, "global_keyprefix": self.key_prefix}
        options = {name: value for name, value in options.items() if value is not None}
        if options:
            made["result_backend_transport_options"] = options
            if self.broker_url.partition("://")[0] in _REDIS:
                made["broker_transport_options"] = options
        return made


def _details(settings: type[Settings], name: str) -> dict[str, Any]:
    extra: dict[str, Any] = settings.model_fields[name].json_schema_extra  # type: ignore[assignment]
    return extra


def _what(settings: type[Settings], variable: str) -> str:
    """The variable, with its value if that is no secret."""
    [name] = [name for name, field in settings.model_fields.items() if field.validation_alias == variable]
    return variable if _details(settings, name)["secret"] else f"{variable}={os.environ[variable].strip()!r}"


def _refuse_misspelt() -> None:
    """Refuse what is nearly a setting, or one with a word more or less: otherwise a misspelt signing key would quietly
    mean no signing.
    """
    known = variables()
    for name in sorted(os.environ):
        if name.upper().startswith(_PREFIX) and name not in known and not _SERVICE.search(name):
            more = [
                one for one in known if f"{name.upper()}_".startswith(f"{one}_") or one.startswith(f"{name.upper()}_")
            ]
            near = more or difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)
            if near:
                raise ConfigurationError(f"{name}: there is no such setting; do you mean {near[0]}?", variable=name)


def variables() -> list[str]:
    """The environment variables that are read."""
    return [str(field.validation_alias) for field in Settings.model_fields.values()]


def page() -> str:
    """The page that documents the settings, in Markdown."""
    rows = [
        f"| `{field.validation_alias}` | {field.description} | {_details(Settings, name)['shown']} |"
        for name, field in Settings.model_fields.items()
    ]
    return _PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    sys.stdout.write(page())

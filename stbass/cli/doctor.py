"""``stbass doctor``: what is wrong with an installation, its servers and its fleet, and what to do about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib import metadata
from typing import Any, Literal

import msgspec
import redis
import typer
from kombu.exceptions import KombuError
from packaging.requirements import InvalidRequirement, Requirement  # comes with kombu[redis]

from stbass._values.texts import error_text, printable, shortened
from stbass.backends.celery.fleet_status import FleetStatus, look_at
from stbass.backends.celery.kombu_sender import KombuSender
from stbass.backends.celery.refusals import REFUSED
from stbass.backends.celery.settings import EXECUTE, FleetSettings, FleetState, fleet_of
from stbass.cli.exits import Exit
from stbass.cli.named import load_application
from stbass.errors import BackendUnavailableError
from stbass.transports.redis.address import NO_CLUSTER, NOT_LET_IN, is_cluster

__all__ = [
    "Finding",
    "check_clock",
    "check_packages",
    "check_persistence",
    "check_python",
    "check_version",
    "run_doctor",
]

_OURS = "stbass-celery"
_OTHER = "stbass"
_OLDEST_PYTHON, _FIRST_PYTHON_UNTRIED = (3, 11), (3, 14)
_OLDEST_SERVER = (6, 2)
_SKEW_SECONDS = 2.0
_SHORTEST_TIMEOUT = 60
_PATIENCE = 2.0


class Finding(msgspec.Struct):
    """What one check has found.

    Args:
        check: what was checked.
        state: ``ok``; ``warning``: it works, but may go wrong; ``error``: it does not work, or work gets lost.
        found: what was found.
        remedy: what to do.
    """

    check: str
    state: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""


def run_doctor(as_json: bool, app: str) -> int:
    """Check everything, show a line for each, and give the exit code: 1 if there is an error.

    Raises:
        ConfigurationError: the application cannot be loaded, or its settings are wrong: nothing else can be checked.
    """
    findings = [check_python(), *check_packages()]
    fleet = fleet_of(load_application(app))
    findings += _check_fleet(fleet)
    is_well = all(one.state != "error" for one in findings)
    if as_json:
        typer.echo(msgspec.json.encode({"ok": is_well, "checks": findings}).decode())
    else:
        for one in findings:
            remedy = f"; {one.remedy}" if one.remedy else ""
            typer.echo(f"{one.state.upper() if one.state != 'ok' else 'OK':<8} {one.check}: {one.found}{remedy}")
    return Exit.OK if is_well else Exit.FAILED


# What is installed here --------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Whether this Python is one that stbass is tried with."""
    text = ".".join(map(str, version))
    if version[:2] < _OLDEST_PYTHON:
        return Finding("Python", "error", f"{text} is too old", "use Python 3.11 to 3.13")
    if version[:2] >= _FIRST_PYTHON_UNTRIED:
        return Finding("Python", "warning", f"{text} has not been tried", "use Python 3.11 to 3.13")
    return Finding("Python", "ok", text)


def check_packages() -> Iterator[Finding]:
    """Whether the packages are the right ones, and no other package has put its files over ours."""
    others = [one for one in metadata.distributions() if _normal(one.metadata["Name"]) == _OTHER]
    if others:
        yield Finding(
            "packages",
            "error",
            f"the package {_OTHER!r} {others[0].version} is installed, another implementation of the same names",
            f"pip uninstall {_OTHER}, and then pip install --force-reinstall {_OURS}",
        )
    try:
        ours = metadata.distribution(_OURS)
    except metadata.PackageNotFoundError:
        yield Finding("packages", "warning", f"{_OURS} is not installed, but used from its files", "install it")
        return
    wrong = list(_unsatisfied(ours.requires or []))
    if wrong:
        yield Finding("packages", "error", "; ".join(wrong), f"pip install --upgrade '{_OURS}[celery]'")
    elif not others:
        yield Finding("packages", "ok", f"{_OURS} {ours.version}, and what it needs")


def _normal(name: str | None) -> str:
    return (name or "").lower().replace("_", "-")


def _unsatisfied(requirements: list[str]) -> Iterator[str]:
    for text in requirements:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # in a form that is newer than what reads it
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": "celery"}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{wanted.name} is {version}, and {wanted.specifier} is needed"


# The servers -------------------------------------------------------------------------------------


def _check_fleet(fleet: FleetState) -> Iterator[Finding]:
    settings = fleet.settings
    servers = {"results": settings.backend}
    if settings.broker is not None and not settings.one_server:
        servers["broker"] = settings.broker
    reached = True
    for name, address in servers.items():
        shown = "broker and results" if settings.one_server else name
        with closing(address.client()) as client:
            try:
                client.ping()
            except (redis.RedisError, OSError) as error:
                reached = False
                wrong = NOT_LET_IN if isinstance(error, redis.AuthenticationError) else "cannot be reached"
                yield Finding(shown, "error", f"Redis at {address} {wrong} ({error_text(error)})", _START)
                continue
            yield Finding(shown, "ok", f"Redis at {address} answers")
            yield from _check_server(shown, client)
    if settings.broker is None:
        try:
            KombuSender(fleet.app).ping()
        except BackendUnavailableError as error:
            reached = False
            yield Finding("broker", "error", error_text(error), _START)
        else:
            yield Finding("broker", "ok", f"{KombuSender(fleet.app).name} answers")
    if reached:
        yield from _check_workers(fleet, look_at(settings, fleet.app, patience=_PATIENCE))


_START = "start it, or correct STBASS_BROKER_URL and STBASS_RESULT_BACKEND"


def _check_server(name: str, client: redis.Redis) -> Iterator[Finding]:
    try:
        info: Any = client.info("everything")
    except redis.ResponseError as error:
        found = f"it does not say how it is set ({error_text(error)})"
        yield Finding(f"{name}: server", "warning", found, "allow INFO to its user")
        return
    yield check_version(name, info)
    yield _check_memory(name, info)
    settings = {key: _setting(client, key) for key in ("save", "timeout")}
    yield check_persistence(name, info, settings["save"])
    yield _check_timeout(name, settings["timeout"])
    seconds: Any = client.time()
    yield check_clock(name, seconds[0] + seconds[1] / 1e6 - time.time())


def _setting(client: redis.Redis, name: str) -> str | None:
    """A setting of the server; None if it may not be asked for."""
    try:
        found: Any = client.config_get(name)
    except redis.ResponseError:
        return None
    return None if name not in found else str(found[name])


def check_version(name: str, info: Mapping[str, Any]) -> Finding:
    """Whether a server can be used, by what it says of itself."""
    check = f"{name}: version"
    version = str(info.get("redis_version", "0"))
    if is_cluster(dict(info)):
        return Finding(check, "error", NO_CLUSTER, "use a single server, or Sentinel for failover")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_SERVER:
        return Finding(check, "error", f"{version} is too old", "use Redis 6.2 or later, or Valkey")
    return Finding(check, "ok", str(info.get("valkey_version", version)))


def _check_memory(name: str, info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy not in ("noeviction", "unknown"):
        return Finding(
            f"{name}: maxmemory-policy",
            "error",
            f"{policy}: when its memory is full it deletes work",
            "set maxmemory-policy to noeviction",
        )
    return Finding(f"{name}: maxmemory-policy", "ok", policy)


def check_persistence(name: str, info: Mapping[str, Any], save: str | None) -> Finding:
    """Whether a server keeps its data over a restart; ``save``: when it takes snapshots, None: it does not say."""
    check = f"{name}: persistence"
    failed = [key for key in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(key, "ok") != "ok"]
    if failed:
        return Finding(
            check, "error", f"it could not write its data ({', '.join(failed)})", "see its log, and its disk"
        )
    if info.get("aof_enabled"):
        return Finding(check, "ok", "append-only file")
    if save:
        return Finding(check, "warning", f"snapshots ({save}): a crash loses what came after the last", _APPEND)
    if save is None:
        return Finding(check, "warning", "no append-only file, and it does not say whether it takes snapshots", _APPEND)
    return Finding(check, "warning", "none: a restart loses what is queued and what runs", _APPEND)


_APPEND = "set appendonly to yes"


def _check_timeout(name: str, timeout: str | None) -> Finding:
    check = f"{name}: timeout"
    if timeout is None:
        return Finding(check, "ok", "it does not say")
    seconds = int(timeout) if timeout.isdigit() else 0
    if 0 < seconds < _SHORTEST_TIMEOUT:
        return Finding(check, "warning", f"it closes connections after {seconds} idle seconds", "set timeout to 0")
    return Finding(check, "ok", f"{seconds} s" if seconds else "none")


def check_clock(name: str, ahead: float) -> Finding:
    """Whether the clock of a server is that of this machine, but for ``ahead`` seconds."""
    check = f"{name}: clock"
    if abs(ahead) <= _SKEW_SECONDS:
        return Finding(check, "ok", "as here")
    which = "ahead of" if ahead > 0 else "behind"
    found = f"{abs(ahead):.0f} s {which} the one here: what Celery is told to start or drop at a time is off by that"
    return Finding(check, "warning", found, "synchronise both with NTP")


# The workers -------------------------------------------------------------------------------------


def _check_workers(fleet: FleetState, status: FleetStatus) -> Iterator[Finding]:
    settings = fleet.settings
    yield from _check_one_fleet(fleet, status)
    for one in status.endpoints:
        name = _shown(one.endpoint)
        if not one.workers and one.queued:
            remedy = f"start one: stbass worker -e {name}"
            yield Finding(f"endpoint {name}", "error", f"{one.queued} wait, and no worker consumes it", remedy)
        elif one.limit is not None and one.limit.split(",")[0] == "0" and one.queued:
            remedy = f"stbass limit {name} --running N, or --off"
            yield Finding(f"endpoint {name}", "warning", f"stopped by its limit, and {one.queued} wait", remedy)
        elif one.workers:
            found = f"{one.healthy} of {one.workers} workers are well"
            if one.healthy:
                yield Finding(f"endpoint {name}", "ok", found)
            else:
                yield Finding(f"endpoint {name}", "error", found, "see what is said of them below")
    if not status.workers:
        yield Finding("workers", "warning", "there are none", "start one: stbass worker -e ENDPOINT")
    for worker in status.workers:
        name = f"worker {_shown(worker.name)}"
        unknown = [module for module in settings.include if not _knows(worker.include, module)]
        if worker.trouble is not None:
            yield Finding(name, "error", printable(shortened(worker.trouble, 300)), "see its log; start it again")
        elif worker.signs != settings.signs:
            found = _signing(settings, worker.signs)
            yield Finding(name, "error", found, "give producers and workers the same STBASS_SIGNING_KEY")
        elif unknown:
            remedy = f"start it with --include {' --include '.join(unknown)}, or set STBASS_INCLUDE"
            yield Finding(name, "error", f"it does not know the processes of {', '.join(unknown)}", remedy)
        else:
            yield Finding(name, "ok", "answers, knows the application's processes, and signs as it does")
    if status.refused:
        kinds = ", ".join(f"{number} {_shown(kind)}" for kind, number in status.refused.items())
        key = settings.backend.key(REFUSED)
        yield Finding(
            "refused", "warning", kinds, f"LRANGE {key} 0 9 says why; DEL {key} {key}:counts when it is settled"
        )
    else:
        yield Finding("refused", "ok", "nothing")


def _check_one_fleet(fleet: FleetState, status: FleetStatus) -> Iterator[Finding]:
    """Whether the workers that announce themselves at the results are those that the broker reaches."""
    settings = fleet.settings
    if settings.broker is not None and settings.broker_prefix != settings.backend.prefix:
        found = (
            f"keys of queues begin with {settings.broker_prefix!r}, those of results with {settings.backend.prefix!r}"
        )
        yield Finding("one fleet", "warning", found, "give both transport options the same global_keyprefix")
    try:
        heard, strangers = _heard(fleet, {worker.name for worker in status.workers})
    except (KombuError, redis.RedisError, OSError) as error:
        found = f"the workers cannot be asked over the broker ({error_text(error)})"
        yield Finding("one fleet", "warning", found, "allow its user what Celery needs, INFO among it")
        return
    if strangers:
        found = f"the broker reaches {', '.join(map(_shown, sorted(strangers)))}, but the results do not know them"
        yield Finding("one fleet", "error", found, "give all of them the same STBASS_RESULT_BACKEND and key prefix")
    deaf = [worker.name for worker in status.workers if worker.trouble is None and worker.name not in heard]
    if deaf:
        found = f"the results know {', '.join(map(_shown, deaf))}, but the broker does not reach them"
        yield Finding("one fleet", "error", found, "give all of them the same STBASS_BROKER_URL")
    elif status.workers and not strangers:
        number = len(status.workers)
        found = f"{number} worker{'' if number == 1 else 's'}, at the broker and at the results"
        yield Finding("one fleet", "ok", found)


def _heard(fleet: FleetState, known: set[str]) -> tuple[set[str], set[str]]:
    """The workers that answer over the broker, and those of them that run processes and are not known."""
    replies: Any = fleet.app.control.ping(timeout=_PATIENCE / 2)
    heard = {name for reply in replies for name in reply}
    if not heard - known:
        return heard, set()
    asked: Any = fleet.app.control.inspect(destination=sorted(heard - known), timeout=_PATIENCE / 2).registered()
    return heard, {name for name, tasks in (asked or {}).items() if any(one.split()[0] == EXECUTE for one in tasks)}


def _knows(include: list[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in include)


def _signing(settings: FleetSettings, signs: str) -> str:
    if not signs:
        return "it does not sign, and the application here does"
    return "it signs with another key" if settings.signs else "it signs, and the application here does not"


def _shown(text: str) -> str:
    return printable(shortened(text, 60))

"""Ways to make a server refuse for now what it is asked, and to end that."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from stbass.testing.redis_server import free_port

__all__ = ["REFUSALS", "Refusal"]


@dataclass
class Refusal:
    """How a server is made to refuse, and to stop it, with its data in a folder; and what it says then."""

    begin: Callable[[redis.Redis, Path], object]
    end: Callable[[redis.Redis, Path], object]
    words: str


def _fill(client: redis.Redis, _: Path) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


def _without_disk(client: redis.Redis, folder: Path) -> None:
    shutil.rmtree(folder)
    client.config_set("save", "3600 1000000")
    client.bgsave()
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        time.sleep(0.01)


def _block(client: redis.Redis, _: Path) -> None:
    client.config_set("lua-time-limit", "50")
    # Nobody waits for the answer: it never comes.
    connection = client.connection_pool.get_connection()
    connection.send_command("EVAL", "while true do end", "0")


def _unblock(client: redis.Redis, _: Path) -> None:
    client.script_kill()


def _demote(client: redis.Redis, _: Path) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", free_port())


def _demote_stale(client: redis.Redis, _: Path) -> None:
    client.config_set("replica-serve-stale-data", "no")
    _demote(client, _)


def _promote(client: redis.Redis, _: Path) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")


REFUSALS = {
    "OOM": Refusal(_fill, lambda client, _: client.config_set("maxmemory", "0"), "OOM|maxmemory"),
    "NOREPLICAS": Refusal(
        lambda client, _: client.config_set("min-replicas-to-write", "1"),
        lambda client, _: client.config_set("min-replicas-to-write", "0"),
        "NOREPLICAS",
    ),
    "NOPERM": Refusal(
        lambda client, _: client.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha"),
        lambda client, _: client.execute_command("ACL", "SETUSER", "default", "+@all"),
        "permission",
    ),
    "READONLY": Refusal(_demote, _promote, "read only replica"),
    "MISCONF": Refusal(
        _without_disk,
        lambda client, _: (client.config_set("stop-writes-on-bgsave-error", "no"), client.config_set("save", "")),
        "MISCONF",
    ),
    "BUSY": Refusal(_block, _unblock, "BUSY"),
    "MASTERDOWN": Refusal(_demote_stale, _promote, "MASTERDOWN|MASTER is down"),
}

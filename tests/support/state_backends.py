"""Every kind of state backend, with a real server behind it, and ways to tamper with what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stbass.dataflow.state.base import StateBackend
from stbass.dataflow.state.memory import DictStateBackend
from stbass.dataflow.state.postgres import PostgresStateBackend
from stbass.dataflow.state.redis import RedisStateBackend
from stbass.dataflow.state.sqlite import SqliteStateBackend

__all__ = ["DURABLE", "KINDS", "Kind", "kind_of", "make_backend"]

DURABLE = ("sqlite", "postgres", "redis")
KINDS = ("memory", *DURABLE)

_CLASSES: Mapping[str, Callable[..., StateBackend]] = {
    "memory": DictStateBackend,
    "sqlite": SqliteStateBackend,
    "postgres": PostgresStateBackend,
    "redis": RedisStateBackend,
}


def make_backend(kind: str, where: str, **options: Any) -> StateBackend:
    """A backend of this kind; ``where`` is its path or URL."""
    return _CLASSES[kind](**options) if kind == "memory" else _CLASSES[kind](where, **options)


@dataclass(frozen=True)
class Kind:
    """A kind of backend, and where this test has it."""

    name: str
    where: str

    def __call__(self, **options: Any) -> StateBackend:
        """A new backend object."""
        return make_backend(self.name, self.where, **options)

    def statement(self, text: str, *parameters: Any) -> None:
        """Change a database behind the backend's back; ``?`` stands for a parameter."""
        if self.name == "sqlite":
            connection = sqlite3.connect(self.where)
            try:
                with connection:
                    connection.execute(text, parameters)
            finally:
                connection.close()
        else:
            with psycopg.connect(self.where) as session:
                session.execute(text.replace("?", "%s").encode(), parameters)


def kind_of(name: str, request: pytest.FixtureRequest, folder: Path) -> Kind:
    """A kind of backend on the session's server, with nothing stored yet."""
    if name == "postgres":
        return Kind(name, request.getfixturevalue("postgres_url"))
    if name == "redis":
        return Kind(name, request.getfixturevalue("redis_url"))
    return Kind(name, str(folder / "state.db"))

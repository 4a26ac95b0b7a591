"""What ``stbass doctor`` makes of what no test can break: a Python, a clock, an old server, a disk that is full."""

from __future__ import annotations

from typing import Any

import pytest

from stbass.cli.doctor import check_clock, check_packages, check_persistence, check_python, check_version


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 10, 9), "error"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warning"), ((4, 0, 0), "warning")],
)
def test_python(version: tuple[int, ...], state: str) -> None:
    found = check_python(version)
    assert found.state == state
    assert bool(found.remedy) is (state != "ok")


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (0.5, "ok", "as here"),
        (-1.5, "ok", "as here"),
        (61.0, "warning", "61 s ahead of"),
        (-3.0, "warning", "3 s behind"),
    ],
)
def test_clock(ahead: float, state: str, words: str) -> None:
    found = check_clock("results", ahead)
    assert (found.state, words in found.found) == (state, True)


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"redis_version": "6.2.14"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.8"}, "ok"),
        ({"redis_version": "6.0.16"}, "error"),
        ({"redis_version": "5.0"}, "error"),
        ({"redis_version": "7.0.0", "redis_mode": "cluster"}, "error"),
    ],
)
def test_server(info: dict[str, Any], state: str) -> None:
    found = check_version("results", info)
    assert found.state == state
    assert bool(found.remedy) is (state != "ok")


@pytest.mark.parametrize(
    ("info", "save", "state"),
    [
        ({"aof_enabled": 1}, "", "ok"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "", "error"),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, "3600 1", "error"),
        ({"aof_enabled": 0}, "3600 1", "warning"),
        ({"aof_enabled": 0}, "", "warning"),
        ({"aof_enabled": 0}, None, "warning"),
    ],
)
def test_persistence(info: dict[str, Any], save: str | None, state: str) -> None:
    assert check_persistence("results", info, save).state == state


def test_packages() -> None:
    assert [one.state for one in check_packages()] == ["ok"]

"""State that cannot be used, or is not as it was written: told in one error that says what, where and what to do."""

from __future__ import annotations

import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stbass.dataflow.state.postgres import PostgresStateBackend
from stbass.dataflow.state.redis import RedisStateBackend
from stbass.dataflow.state.sqlite import SqliteStateBackend
from stbass.errors import CheckpointError, ConfigurationError, StateError
from stbass.testing import RedisServer
from stbass.testing.redis_server import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.state_backends import Kind

JOB = "Job_0123456789abcdef"
KEY = f"stbass:state:{JOB}"


# The same in every run, so that the tests have the same names.
NOISE = random.Random(99).randbytes(99)

# Damaged records ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "parameter", "command"),
    [
        ("UPDATE stbass_part SET data = ?", b"part", ("HSET", f"{KEY}:checkpoint", "part:a", b"part")),
        ("UPDATE stbass_part SET data = ?", b"", ("HSET", f"{KEY}:checkpoint", "part:a", b"")),
        ("UPDATE stbass_part SET data = ?", NOISE, ("HSET", f"{KEY}:checkpoint", "part:a", NOISE)),
        ("UPDATE stbass_part SET checksum = ?", 7, ("HSET", f"{KEY}:checkpoint", "sum:a", "x")),
        ("UPDATE stbass_part SET name = ?", "b", ("HDEL", f"{KEY}:checkpoint", "sum:a")),
        ("DELETE FROM stbass_part WHERE name = ?", "a", ("HDEL", f"{KEY}:checkpoint", "part:a")),
        ("UPDATE stbass_checkpoint SET parts = ?", 2, ("HSET", f"{KEY}:checkpoint", "parts", "?")),
        ("UPDATE stbass_checkpoint SET n = ?", -1, ("HSET", f"{KEY}:checkpoint", "n", "one")),
        ("UPDATE stbass_checkpoint SET n = ?", -2, ("DEL", f"{KEY}:checkpoint")),
        ("UPDATE stbass_checkpoint SET n = ?", -3, ("HDEL", KEY, "checkpoint")),
    ],
)
async def test_a_damaged_checkpoint(
    durable: Kind, redis_server: RedisServer, statement: str, parameter: object, command: tuple[str, ...]
) -> None:
    if "name = ?" in statement and "SET" in statement and durable.name != "redis":
        # a part that is another's: the runtime finds that; here it is one of the right number
        statement, parameter = "UPDATE stbass_part SET data = ?", b"swapped"
    async with durable(job_id=JOB) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"part of a"})
        if durable.name == "redis":
            redis_server.command(*command)
        else:
            durable.statement(statement, parameter)
        # when, then
        with pytest.raises(CheckpointError, match=f"checkpoint of {JOB} in .* is damaged: .* Put back a copy"):
            await state.load_checkpoint()
        # and another one mends it
        await state.save_checkpoint(2, {"a": b"again"})
        assert await state.load_checkpoint() == (2, {"a": b"again"})


async def test_types_that_sqlite_lets_in(tmp_path: Path) -> None:
    kind = Kind("sqlite", str(tmp_path / "state.db"))
    async with kind(job_id=JOB) as state:
        await state.acquire_job()
        for statement, value in (
            ("UPDATE stbass_part SET data = ?", "text"),
            ("UPDATE stbass_part SET name = ?", b"bytes"),
            ("UPDATE stbass_part SET checksum = ?", "text"),
            ("UPDATE stbass_checkpoint SET parts = ?", "text"),
            ("UPDATE stbass_checkpoint SET n = ?", "text"),
        ):
            await state.save_checkpoint(1, {"a": b"part of a"})
            kind.statement(statement, value)
            with pytest.raises(CheckpointError):
                await state.load_checkpoint()


async def test_damaged_texts(durable: Kind, redis_server: RedisServer) -> None:
    async with durable(job_id=JOB) as state:
        await state.upsert_process({"id": "p"})
        await state.upsert_component({"id": "a"})
        if durable.name == "redis":
            redis_server.command("HSET", f"{KEY}:process", "p", b"\xff{")
            redis_server.command("HSET", f"{KEY}:component", "a", "{")
            redis_server.command("HSET", f"{KEY}:status", "p", "dancing")
        else:
            durable.statement("UPDATE stbass_process SET data = ?, status = ?", "\ufffd{", "dancing")
            durable.statement("UPDATE stbass_item SET data = ?", "{")
        with pytest.raises(StateError, match="process 'p' is stored as something that is not JSON"):
            await state.get_process("p")
        with pytest.raises(StateError, match="component 'a' is stored as something that is not JSON"):
            await state.get_component("a")
        with pytest.raises(StateError, match="'dancing'"):
            await state.get_process_status("p")
        with pytest.raises(StateError, match="'dancing'"):
            await state.job_status()


@pytest.mark.parametrize("found", ["99", "0", "none"])
async def test_another_version(durable: Kind, redis_server: RedisServer, found: str) -> None:
    if durable.name == "redis" and found == "none":
        found = "nonsense"
    async with durable(job_id=JOB):
        pass
    if durable.name == "redis":
        redis_server.command("SET", "stbass:state:schema", found)
    elif found == "none":
        durable.statement("DELETE FROM stbass_schema")
    else:
        durable.statement("UPDATE stbass_schema SET version = ?", int(found))
    with pytest.raises(StateError, match=rf"another version of stbass \(schema {found}; .* schema 1\): use"):
        await durable(job_id=JOB).init()


# SQLite ------------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 1000)
    with pytest.raises(StateError, match=r"notes\.txt' is not an SQLite database: name another"):
        await SqliteStateBackend(path).init()
    assert path.read_text() == "not a database\n" * 1000


@pytest.mark.parametrize("keep", [100, 4096, 5000, 20_000])
async def test_a_truncated_database(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "state.db"
    async with SqliteStateBackend(path, job_id=JOB) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": bytes(100_000)})
    with path.open("r+b") as file:
        file.truncate(keep)
    with pytest.raises(StateError, match=r"state\.db' is (damaged|not an SQLite database)"):
        async with SqliteStateBackend(path, job_id=JOB) as state:
            await state.load_checkpoint()


async def test_places_where_no_database_can_be(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"there is no folder '.*missing'; make it"):
        await SqliteStateBackend(tmp_path / "missing" / "state.db").init()
    with pytest.raises(StateError, match="cannot be opened: it must be a file"):
        await SqliteStateBackend(tmp_path).init()
    for path in ("", ":memory:"):
        with pytest.raises(ConfigurationError, match="DictStateBackend"):
            SqliteStateBackend(path)
    with pytest.raises(ConfigurationError, match="timeout"):
        SqliteStateBackend(tmp_path / "state.db", timeout=-1)


async def test_a_locked_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    locker = sqlite3.connect(path, isolation_level=None)
    try:
        async with SqliteStateBackend(path, timeout=0.05, job_id=JOB) as state:
            await state.acquire_job()
            await state.save_checkpoint(1, {"a": b"1"})
            locker.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateError, match=r"is locked: another program has been writing to it for 0\.05 s"):
                await state.save_checkpoint(2, {"a": b"2"})
            assert await state.load_checkpoint() == (1, {"a": b"1"})
            with pytest.raises(StateError, match="is locked"):
                await SqliteStateBackend(path, timeout=0.05).init()
            locker.execute("ROLLBACK")
            await state.save_checkpoint(2, {"a": b"2"})
        with pytest.raises(StateError, match="is locked"):
            locker.execute("PRAGMA locking_mode = EXCLUSIVE")
            locker.execute("BEGIN EXCLUSIVE")
            await SqliteStateBackend(path, timeout=0.05).init()
    finally:
        locker.close()


async def test_a_database_with_tables_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as mine:
        mine.execute("CREATE TABLE job (job_id TEXT)")
        mine.execute("PRAGMA user_version = 12")
    mine.close()
    async with SqliteStateBackend(path, job_id=JOB) as state:
        await state.upsert_process({"id": "p"})
    mine = sqlite3.connect(path)
    assert mine.execute("PRAGMA user_version").fetchone() == (12,)
    assert mine.execute("SELECT * FROM job").fetchall() == []
    mine.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="stbass-state-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


# Root may write everything, so as root this is done by nobody.
_AS_NOBODY = """
import asyncio, os, resource, sys
from stbass.dataflow.state.sqlite import SqliteStateBackend
from stbass.errors import StateError

path, limit = sys.argv[1], int(sys.argv[2])
# What is imported late must be there before rights are given up.
import sqlite3, concurrent.futures.thread

async def attempt():
    try:
        async with SqliteStateBackend(path, job_id="Job_0123456789abcdef") as state:
            await state.acquire_job()
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            await state.save_checkpoint(2, {"a": bytes(1_000_000)})
    except StateError as error:
        print(error)
    else:
        print("it worked")

if os.geteuid() == 0 and not limit:
    os.setegid(65534)
    os.seteuid(65534)
asyncio.run(attempt())
"""


def _in_a_process(path: Path, limit: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, path, str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_WRITES = """
import os, sys
from pathlib import Path
from stbass.dataflow.library.disk import check_replaceable
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    check_replaceable(Path(sys.argv[1]))
except PermissionError as error:
    print(error)
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_file_of_results_that_may_not_be_written(open_folder: Path, there: bool) -> None:
    path = open_folder / "results.csv"
    if there:
        path.touch(0o444)
    open_folder.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", _WRITES, path], capture_output=True, text=True, check=False)
    said = "no permission" if there else f"no permission to make a file in {open_folder}"
    assert (done.stdout, done.stderr) == (f"cannot write {path}: {said}\n", "")


@pytest.mark.parametrize("what", ["file", "folder", "both"])
async def test_a_database_that_may_only_be_read(open_folder: Path, what: str) -> None:
    path = open_folder / "state.db"
    async with SqliteStateBackend(path):
        pass
    path.chmod(0o444 if what != "folder" else 0o666)
    open_folder.chmod(0o777 if what == "file" else 0o555)
    told = _in_a_process(path)
    assert "state.db' cannot be" in told
    assert "writable for this user" in told
    # It could be the file system: the same, with the rights it needs, works.
    path.chmod(0o666)
    open_folder.chmod(0o777)
    assert _in_a_process(path) == "it worked\n"


async def test_no_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with SqliteStateBackend(path, job_id=JOB) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
    assert "state.db' cannot be" in _in_a_process(path, limit=200_000)
    async with SqliteStateBackend(path, job_id=JOB) as state:
        assert await state.load_checkpoint() == (1, {"a": b"1"})


# Servers -----------------------------------------------------------------------------------------


async def test_servers_that_are_not_there() -> None:
    port = free_port()
    with pytest.raises(StateError, match=rf"Redis at redis://:\*\*\*@127\.0\.0\.1:{port} cannot be reached: start"):
        await RedisStateBackend(f"redis://:secret@127.0.0.1:{port}").init()
    with pytest.raises(StateError, match=rf"database 'd' at 127\.0\.0\.1:{port} cannot be reached") as caught:
        await PostgresStateBackend(f"postgresql://u:secret@127.0.0.1:{port}/d").init()
    assert "secret" not in str(caught.value)


async def test_something_else_at_that_address() -> None:
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StateError, match=r"did not answer for 0\.2 s"):
            await RedisStateBackend(f"redis://127.0.0.1:{port}", timeout=0.2).init()
        with pytest.raises(StateError, match=r"cannot be reached|did not answer for 0\.2 s"):
            await PostgresStateBackend(f"postgresql://u:p@127.0.0.1:{port}/d?connect_timeout=2").init()


async def test_wrong_passwords_are_not_shown(postgres_server: PostgresServer) -> None:
    with RedisServer(password="right") as server:
        backend = RedisStateBackend(server.url.replace("right", "quite-wrong"))
        with pytest.raises(StateError, match="refuses this user: correct the user's name or the password") as caught:
            await backend.init()
        assert "quite-wrong" not in f"{caught.value}{caught.value.__cause__}{backend!r}"
        async with RedisStateBackend(server.url) as right:
            assert "right" not in repr(right)
    other = PostgresStateBackend(postgres_server.url(password="quite-wrong"))
    with pytest.raises(StateError, match="or the password") as caught:
        await other.init()
    assert "quite-wrong" not in f"{caught.value}{caught.value.__cause__}{other!r}"
    with pytest.raises(StateError, match=r"database 'missing' at .* cannot be reached"):
        await PostgresStateBackend(postgres_server.url(database="missing")).init()


@pytest.mark.parametrize(
    "url", ["mysql://u:geheim@h/d", "postgresql://u:gehe%im@h/d", "geheim", "postgresql://u:p@h:geheim:1/d?x=geheim"]
)
def test_what_is_no_url_of_postgres(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresStateBackend(url)
    assert "geheim" not in f"{caught.value}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url", ["http://:geheim@h", "redis://:geheim/x@h:1", "redis://:p@h:geheim", "redis://h:1x?password=geheim"]
)
def test_what_is_no_url_of_redis(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisStateBackend(url)
    assert "geheim" not in f"{caught.value}"


def test_numbers_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="lease"):
        RedisStateBackend("redis://h", lease=0)
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisStateBackend("redis://h", timeout=-1)
    with pytest.raises(ConfigurationError, match="timeout"):
        PostgresStateBackend("postgresql://h", timeout=float("nan"))


async def test_urls_as_sqlalchemy_writes_them(postgres_url: str) -> None:
    async with PostgresStateBackend(postgres_url.replace("postgresql:", "postgresql+asyncpg:")) as state:
        await state.upsert_process({"id": "p"})


async def test_a_standby_or_a_user_without_rights(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS reader")
        session.execute("CREATE ROLE reader LOGIN PASSWORD 'r'")
        session.execute("CREATE DATABASE empty OWNER stbass")
    try:
        place = postgres_server.url(database="empty")
        with pytest.raises(StateError, match="may not be written by this user: grant"):
            await PostgresStateBackend(place.replace(f"stbass:{postgres_server.password}", "reader:r")).init()
        with pytest.raises(StateError, match="name the primary"):
            await PostgresStateBackend(f"{place}?options=-cdefault_transaction_read_only%3Don").init()
    finally:
        with psycopg.connect(postgres_server.url(), autocommit=True) as session:
            session.execute("DROP DATABASE empty WITH (FORCE)")
            session.execute("DROP ROLE reader")


@pytest.mark.slow
async def test_redis_without_memory_keeps_the_last_checkpoint() -> None:
    with RedisServer() as server:
        async with RedisStateBackend(server.url, job_id=JOB) as state:
            await state.acquire_job()
            await state.save_checkpoint(1, {"a": b"1"})
            server.command("CONFIG SET", "maxmemory", 1)
            with pytest.raises(StateError, match="has no memory left"):
                await state.save_checkpoint(2, {"a": bytes(100)})
            assert await state.load_checkpoint() == (1, {"a": b"1"})

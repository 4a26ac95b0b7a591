"""The command line: its help, its exit codes, and workers that it starts."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from stbass import PLACED_PAR, BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing._guarded import GuardedProcess
from tests.integration.some_agents import greet
from tests.os_processes import command_of, descendants_of, wait_until_gone

ROOT = Path(__file__).parents[2]


def stbass(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_the_installed_one() -> None:
    done = stbass("--version")
    assert (done.returncode, done.stdout) == (0, f"stbass {version('stbass-celery')}\n")


def test_the_help_names_the_commands_and_the_exit_codes() -> None:
    done = stbass("--help")
    assert done.returncode == 0
    assert all(f"\n  {command} " in done.stdout for command in ("worker", "dev", "demo"))
    assert "Exit codes: 0 done, 1 failed" in done.stdout


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    # given a shell that has read what the command prints for it
    script = stbass(_STBASS_COMPLETE="source_bash")
    assert script.returncode == 0, script.stderr
    command = tmp_path / "stbass"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stbass.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "init").write_text(f"PS1='ready> '\nbind 'set enable-bracketed-paste off'\n{script.stdout}")
    ours, theirs = pty.openpty()
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(tmp_path / "init"), "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        _shown(ours, "ready> ")
        # when a tab is typed, the rest is there
        os.write(ours, b"stbass stat\t")
        _shown(ours, "stbass status")
        os.write(ours, b"--requ\t")
        _shown(ours, "--require ")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def _shown(terminal: int, wanted: str) -> None:
    shown, until = b"", time.monotonic() + 60
    while wanted.encode() not in shown:
        assert time.monotonic() < until, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 4096)


def test_the_help_loads_nothing_that_is_heavy() -> None:
    # Why `stbass --help` is quick; the time itself is measured by the benchmarks, not asserted here.
    code = """
import sys
from stbass.cli import main
sys.argv = ["stbass", "--help"]
try:
    main()
finally:
    heavy = {"celery", "importlib.metadata", "kombu", "numpy", "pydantic", "redis", "rich"}
    print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["worker"], ["worker", "-e", "a", "-c", "0"], ["no-such-command"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    done = stbass(*arguments)
    assert done.returncode == 2
    assert "Usage: stbass" in done.stderr


def test_a_wrong_setting_exits_with_3_and_one_line() -> None:
    done = stbass("worker", "-e", "anthropic", STBASS_CONCURRENCY="many")
    assert done.returncode == 3
    assert done.stderr.startswith("stbass: STBASS_CONCURRENCY='many': must be a whole number")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["worker", "-e", "a"], ["dev", "-e", "a"], ["demo"]])
def test_without_the_celery_extra_the_error_says_what_to_install(command: list[str]) -> None:
    # `None` in sys.modules makes an import fail as if the package were not there.
    code = f"""
import sys
sys.modules["celery"] = None
sys.argv = ["stbass", *{command!r}]
from stbass.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert re.fullmatch(r"stbass: (this|a fleet) needs celery: pip install 'stbass-celery\[celery\]'\n", done.stderr)


@pytest.mark.parametrize("package", ["aiohttp", "textual_serve"])
def test_without_the_top_extra_the_error_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = ['top', '--serve', '1']; import stbass.cli"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; stbass.cli.main()"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stderr == f"stbass: this needs {package}: pip install 'stbass-celery[top]'\n"


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    # given a home that is none
    home = tmp_path / "home"
    home.write_text("")
    command = [sys.executable, "-m", "stbass.cli", "--install-completion", "bash"]
    environment = {
        **os.environ,
        "HOME": str(home),
        "SHELL": "/bin/bash",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    # when completion is to be installed there
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    # then
    assert done.returncode == 1
    assert re.fullmatch(rf"stbass: {home}\S* cannot be used \(.*\): change that, or name another\n", done.stderr)


def test_an_application_that_is_not_there_exits_with_3() -> None:
    done = stbass("worker", "-e", "anthropic", "--app", "no_such_application")
    assert done.returncode == 3
    assert "there is no such Celery application to be found from" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_worker_says_what_it_consumes_and_knows_and_ends_on_sigterm(redis_url: str) -> None:
    command = [sys.executable, "-m", "stbass.cli", "worker", "-e", "anthropic", "-e", "local:8080", "-n", "mine@here"]
    command += ["--app", "celery_app"]
    command += ["--grace", "3", "--concurrency", "7", "--include", "tests.integration.some_agents"]
    command += ["--functions", "tests.support.tasks"]
    environment = {**os.environ, "STBASS_BROKER_URL": redis_url}
    process = GuardedProcess(command, name="stbass worker", env=environment, cwd=ROOT)
    try:
        process.wait_for_log("mine@here ready.", 30)
        log = process.log
        assert "consumes  anthropic, local:8080; at most 7 at once" in log
        assert "celery_app.agents:reason" in log
        assert "tests.integration.some_agents:greet" in log
        assert "calls     the functions of tests.support.tasks\n" in log
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()


def test_dev_starts_redis_and_workers_and_ends_all_of_them_on_ctrl_c() -> None:
    command = [sys.executable, "-m", "stbass.cli", "dev", "-e", "anthropic", "-e", "local:8080", "--port", "0"]
    command += ["--include", "tests.integration.some_agents"]
    process = GuardedProcess(command, name="stbass dev", cwd=ROOT)
    try:
        process.wait_for_log("export STBASS_LLM_URL=http://127.0.0.1:", 90)
        [url] = re.findall(r"export STBASS_BROKER_URL=(redis://127\.0\.0\.1:\d+/0)", process.log)
        # What a worker's process logs is told with its endpoint.
        registry = BackendRegistry()
        registry.register("*", CeleryBackend(make_app("tests", broker_url=url)))
        placed = [(greet, Placement(endpoint=endpoint)) for endpoint in ("anthropic", "local:8080")]
        assert PLACED_PAR(*placed, registry=registry, deadline=60.0).run_sync().is_ok
        process.wait_for_log("anthropic  | ", 30)
        process.wait_for_log("local:8080 | ", 30)
        started = descendants_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.wait_for_log("Everything has ended (SIGINT).", 5)
        assert len(started) >= 3
        assert all(wait_until_gone(pid) for pid in started)
    finally:
        process.kill()


@pytest.mark.slow
def test_dev_ends_when_a_worker_ends(redis_url: str) -> None:
    command = [sys.executable, "-m", "stbass.cli", "dev", "-e", "anthropic", "--redis", redis_url, "--port", "0"]
    process = GuardedProcess(command, name="stbass dev", cwd=ROOT)
    try:
        process.wait_for_log("Ctrl-C ends everything.", 90)
        # The guard's own command line holds the worker's: only the interpreter itself counts.
        pids = [pid for pid in descendants_of(process.pid) if command_of(pid)[0] == sys.executable]
        [worker] = [pid for pid in pids if "worker" in command_of(pid)]
        os.kill(worker, signal.SIGKILL)
        assert process.wait(20) == 1
        process.wait_for_log("The worker of anthropic has ended", 5)
    finally:
        process.kill()


def console_of(page: str) -> list[tuple[list[str], str]]:
    """The commands that a page of the documentation shows, and what each prints."""
    shown = "".join(re.findall(r"^```console\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE))
    parts = re.split(r"^\$ stbass (.*)\n", shown, flags=re.MULTILINE)
    return [(shlex.split(command), output) for command, output in zip(parts[1::2], parts[2::2], strict=True)]


@pytest.mark.parametrize("page", ["limits.md", "operate.md"])
def test_a_page_shows_what_its_commands_print(redis_url: str, page: str) -> None:
    for command, output in console_of(page):
        done = stbass(*command, STBASS_BROKER_URL=redis_url)
        assert (done.stdout, done.returncode) == (output, 0), done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--running", "-3"], "--running='-3': must be a number"),
        (["--running", "5/s"], "--running='5/s': must be a number"),
        (["--running", "1e3"], "--running='1e3': must be a number"),
        (["--rate", "0/min"], "--rate='0/min': a rate is at least 1"),
        (["--rate", "5"], "--rate='5': must be a rate"),
        (["--rate", "5/fortnight"], "--rate='5/fortnight': must be a "),
        (["--running", "9999999999"], "--running='9999999999': 9999999999 is more than"),
        (["--off", "--running", "3"], "--off lifts all limits"),
    ],
)
@pytest.mark.slow
def test_a_wrong_limit_is_refused_by_name_and_changes_nothing(redis_url: str, arguments: list[str], error: str) -> None:
    stbass("limit", "llm", "--running", "7", STBASS_BROKER_URL=redis_url)
    done = stbass("limit", "llm", *arguments, STBASS_BROKER_URL=redis_url)
    assert done.returncode == 3
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
    assert stbass("limit", "llm", STBASS_BROKER_URL=redis_url).stdout.startswith("llm: 7 at once;")


def test_a_limit_cannot_be_set_where_there_is_no_redis() -> None:
    done = stbass("limit", "llm", STBASS_BROKER_URL="redis://somebody:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "secret" not in done.stderr

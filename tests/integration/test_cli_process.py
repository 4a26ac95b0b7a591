"""``stbass process``: real files, real processes of the operating system."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from stbass.dataflow.state import SqliteStateBackend
from stbass.testing._guarded import GuardedProcess

ROOT = Path(__file__).parents[2]
M = "tests.support.flow_models"
MODEL = f"""
stbass:
  process:
    args:
      name: counting
      components:
      - type: {M}.Counter
        args: {{name: source, iters: 5}}
      - type: {M}.Collect
        args: {{name: sink}}
      connectors:
      - {{source: source.out, target: sink.x}}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.yaml").write_text(MODEL)
    return tmp_path / "model.yaml"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def stbass(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", *map(str, arguments)],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["run", "validate", "diagram"])
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    done = stbass("process", command, "--help")
    assert done.returncode == 0
    assert f"Example: stbass process {command} model.yaml" in done.stdout


def test_a_run_ends_with_the_status_and_the_steps_of_each_component(model: Path) -> None:
    done = stbass("process", "run", model)
    assert done.returncode == 0
    assert re.fullmatch(
        r"counting: completed in \d+\.\d s\n"
        r"  source  completed  6 steps  n=5\n"
        r"  sink    completed  5 steps  total=10\.0\n",
        done.stdout,
    )
    assert done.stderr == ""


def test_the_outcome_as_json(model: Path) -> None:
    done = stbass("process", "run", model, "--json")
    assert done.returncode == 0
    outcome = json.loads(done.stdout)
    assert outcome.pop("seconds") >= 0
    assert outcome == {
        "process": "counting",
        "type": "LocalProcess",
        "status": "completed",
        "job_id": None,
        "missed_checkpoints": [],
        "components": [
            {"name": "source", "status": "completed", "steps": 6, "exports": {"n": 5}},
            {"name": "sink", "status": "completed", "steps": 5, "exports": {"total": 10.0}},
        ],
        "errors": [],
    }


def test_the_modules_of_a_model_may_lie_beside_it_or_where_one_stands(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "beside.py").write_text(f"from {M} import Counter\n")
    (tmp_path / "here.py").write_text(f"from {M} import Collect\n")
    text = MODEL.replace(f"{M}.Counter", "beside.Counter").replace(f"{M}.Collect", "here.Collect")
    (tmp_path / "models" / "model.yaml").write_text(text)
    assert stbass("process", "run", "models/model.yaml", cwd=tmp_path).returncode == 0


def test_the_other_tools_file_runs(model: Path) -> None:
    text = MODEL.replace("stbass:", "plugboard:", 1)
    model.write_text(
        text.replace("    args:\n      name", "    type: plugboard.process.LocalProcess\n    args:\n      name")
    )
    done = stbass("process", "run", model)
    assert (done.returncode, done.stderr) == (0, "")


# What is wrong -----------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_a_wrong_command_line(tmp_path: Path) -> None:
    for arguments in (
        ["run", tmp_path / "no.yaml"],
        ["validate", tmp_path],
        ["run"],
        ["run", "x", "--process-type", "y"],
    ):
        done = stbass("process", *arguments)
        assert done.returncode == 2
        assert "Usage: stbass process" in done.stderr


def test_validate_says_all_that_is_wrong_a_line_each(model: Path) -> None:
    assert stbass("process", "validate", model).stdout == (
        f"{model}: nothing is wrong (LocalProcess 'counting', 2 components, 1 connector)\n"
    )
    # Given a model in which two connections are wrong,
    model.write_text(
        MODEL + "      - {source: source.uot, target: sink.x}\n      - {source: source.out, target: sink.y}\n"
    )
    # when it is validated, or run,
    for command in ("validate", "run", "run --json"):
        done = stbass("process", *command.split(), model)
        # then every finding is a line of its own, and there is no traceback.
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "there is no such output (did you mean 'out'?)" in done.stderr
        assert "there is no such input" in done.stderr
        assert not done.stdout or len(json.loads(done.stdout)["errors"]) == 2
    found = json.loads(stbass("process", "validate", "--json", model).stdout)
    assert found["valid"] is False
    assert [one.partition(":")[0] for one in found["findings"]] == [
        "component 'source', output 'uot', connector 'source.uot..sink.x'",
        "component 'sink', input 'y', connector 'source.out..sink.y'",
    ]


def test_mistakes_in_the_file_have_their_lines(model: Path) -> None:
    model.write_text(MODEL.replace("Counter", "Cuonter").replace("args: {name: sink}", "args: {name: sink, pth: x}"))
    for command in ("validate", "run", "diagram"):
        done = stbass("process", command, model)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"{model}: process.args.components[0].type (line 7): there is no 'Cuonter' in {M} "
            f"(did you mean 'Counter'?)\n"
            f"{model}: process.args.components[1].args.pth (line 10): {M}.Collect takes no such argument "
            f"(did you mean 'path'?)\n"
            f"{model}: 2 mistakes; no component has run\n"
        )


HOSTILE = """
stbass:
  process:
    args:
      name: theirs
      state: {type: stbass.dataflow.SqliteStateBackend, args: {pth: jobs.db}}
      components:
      - {type: theirs.First, args: {name: first}}
      - {type: theirs.Second, args: {name: 2nd}}
      - {type: theirs.Second, args: {name: first}}
      - {type: stbass.dataflow.library.FileReader, args: {name: reader, path: rows.csv, filed_names: [a]}}
      - {type: theirs, args: {name: last}}
      connectors:
      - {source: first.out, target: lats.x}
      - {source: first.out, target: last.x, type: theirs.Connector}
"""


def test_a_file_from_somebody_else_is_checked_without_importing_what_it_names(tmp_path: Path) -> None:
    # given
    (tmp_path / "theirs.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    model = tmp_path / "theirs.yaml"
    model.write_text(HOSTILE)
    # when
    done = stbass("process", "validate", "--no-import", model)
    # then all is said that can be, and it was not imported
    assert (done.returncode, done.stdout) == (1, "")
    *found, last = [line.removeprefix(f"{model}: ") for line in done.stderr.splitlines()]
    assert [line.partition(": ")[0] for line in found] == [
        "process.args.components[3].args.filed_names (line 11)",
        "process.args.components[4].type (line 12)",
        "process.args.state.args.pth (line 6)",
        "component 'first'",
        "component '2nd'",
        "component 'lats', input 'x', connector 'first.out..lats.x'",
    ]
    assert "there are 2 components of that name" in done.stderr
    assert "there is no such component (did you mean 'last'?)" in done.stderr
    assert last == "6 mistakes; nothing was imported or run"
    assert not (tmp_path / "ran").exists()
    # when it is validated with them, then it is
    assert "no component has run" in stbass("process", "validate", model).stderr
    assert (tmp_path / "ran").exists()


def test_a_good_file_is_good_without_its_modules_too(model: Path) -> None:
    for kind in ("local", "celery"):
        done = stbass("process", "validate", "--no-import", "-t", kind, model)
        assert done.stdout == (
            f"{model}: nothing is wrong that can be seen without importing its modules (2 components, 1 connector)\n"
        )
    done = stbass("process", "validate", "--no-import", "--json", model)
    assert json.loads(done.stdout) == {"file": str(model), "valid": True, "findings": []}


def test_a_component_that_fails_is_named_with_its_step_and_where(model: Path) -> None:
    model.write_text(MODEL.replace("Collect", "Failing"))
    done = stbass("process", "run", model)
    assert done.returncode == 1
    assert re.fullmatch(
        r"stbass: component 'sink', step 3: RuntimeError: two is too much \(.*flow_models\.py, line \d+\)\n",
        done.stderr,
    )
    assert done.stdout.startswith("counting: failed in ")
    assert re.search(r"\n  sink    failed +3 steps", done.stdout)
    outcome = json.loads(stbass("process", "run", model, "--json").stdout)
    assert outcome["status"] == "failed"
    assert outcome["errors"][0].startswith("component 'sink', step 3: RuntimeError: two is too much")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--state", "mysql:x"], "stbass: --state 'mysql:x': must be sqlite:PATH, postgresql://… or redis://…\n"),
        (["--state", "sqlite:"], "stbass: --state 'sqlite:': must be "),
        (["--job-id", "Job_abcdefgh"], "stbass: --job-id Job_abcdefgh: the model has no state"),
        (["--job-id", "mine", "--state", "sqlite:jobs.db"], "stbass: "),
    ],
)
def test_a_wrong_setting_exits_with_3_and_one_line(model: Path, options: list[str], text: str) -> None:
    done = stbass("process", "run", model, *options, cwd=model.parent)
    assert done.returncode == 3
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_pyyaml_the_error_says_what_to_install(model: Path) -> None:
    code = f"""
import sys
sys.modules["yaml"] = None
sys.argv = ["stbass", "process", "run", {str(model)!r}]
from stbass.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert done.stderr == "stbass: models in YAML need PyYAML: pip install 'stbass-celery[dataflow]'\n"


# Drawing -----------------------------------------------------------------------------------------


def test_a_diagram_goes_to_standard_output(model: Path) -> None:
    done = stbass("process", "diagram", model, "--direction", "TD")
    assert done.returncode == 0
    assert done.stdout == (
        'flowchart TD\n    c0["<b>source</b><br/>Counter"]\n    c1["<b>sink</b><br/>Collect"]\n'
        '    c0 -->|"out → x"| c1\n'
    )


# Jobs --------------------------------------------------------------------------------------------


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_as_if_nothing_had_happened(model: Path) -> None:
    # Given a run that has counted to 5, has a checkpoint of that, and does not end,
    command = [sys.executable, "-m", "stbass.cli", "process", "run", str(model), "--state", "sqlite:jobs.db"]
    process = GuardedProcess(command, name="run", env=environment(FLOW_WAIT="1"), cwd=model.parent)
    try:
        process.wait_for_log(": 5\n", 20)
        job = re.search(r"^job (Job_\w+)$", process.log, re.MULTILINE)
        assert job is not None
        # and a job that another run has cannot be run,
        other = stbass("process", "run", model, "--state", "sqlite:jobs.db", "--job-id", job[1], cwd=model.parent)
        assert other.returncode == 1
        assert other.stderr.startswith("stbass: ")
        assert job[1] in other.stderr
        # when it is interrupted,
        process.send_signal(signal.SIGINT)
        # then it ends with 130 and says how to go on,
        assert process.wait(20) == 130
        again = re.search(r"Interrupted\. To go on from the last checkpoint: stbass (.*)$", process.log, re.MULTILINE)
        assert again is not None
        assert "Traceback" not in process.log
    finally:
        process.kill()
    # and that command does: what was counted is not counted again.
    done = stbass(*shlex.split(again[1]), "--json", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["job_id"], outcome["status"]) == (job[1], "completed")
    assert [one["exports"] for one in outcome["components"]] == [{"n": 5}, {"total": 10.0}]
    assert outcome["components"][1]["steps"] == 5
    # A job that has ended has ended.
    once_more = stbass(*shlex.split(again[1]), cwd=model.parent)
    assert once_more.returncode == 1
    assert once_more.stderr == (
        f"stbass: job {job[1]} has run to its end: nothing was run. For another run leave out --job-id (and job_id in "
        f"the file), or give it another one\n"
    )


def test_on_a_terminal_a_table_shows_how_far_each_component_is(model: Path) -> None:
    # Given a terminal,
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "stbass.cli", "process", "run", str(model)]
    process = subprocess.Popen(
        command, env=environment(FLOW_WAIT="1", TERM="xterm"), stderr=theirs, stdout=subprocess.PIPE, cwd=model.parent
    )
    os.close(theirs)
    shown = ""
    try:
        # when a model runs, then the table is drawn on it,
        while not re.search(r"sink +.*waiting.* 5 ", shown):
            assert select.select([ours], [], [], 20)[0], shown
            shown += os.read(ours, 10_000).decode()
        assert re.search("component.*status.*steps", shown)
        # and it goes away in the end.
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130
        assert out.decode().startswith("counting: stopped in ")
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)


def test_without_a_state_ctrl_c_says_that_nothing_is_kept(model: Path) -> None:
    command = [sys.executable, "-m", "stbass.cli", "process", "run", str(model)]
    process = GuardedProcess(command, name="run", env=environment(FLOW_WAIT="1"), cwd=model.parent)
    try:
        process.wait_for_log("s  steps: source running", 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert "Nothing of this run was kept; with --state sqlite:PATH" in process.log
    finally:
        process.kill()


@pytest.mark.slow
def test_jobs_are_listed_and_those_that_have_ended_deleted(model: Path, tmp_path: Path) -> None:
    # given a job that ran to its end, and one that was made and never run
    state = f"sqlite:{tmp_path / 'jobs.db'}"
    assert stbass("process", "run", model, "--state", state, "--job-id", "Job_12345678").returncode == 0
    asyncio.run(_make_job(tmp_path / "jobs.db", "Job_87654321"))
    jobs = ("process", "jobs", "--state", state)
    # then both are listed, the oldest first
    told = [line.split()[::2] for line in stbass(*jobs).stdout.splitlines()]
    assert told == [["Job_12345678", "completed"], ["Job_87654321", "created"]]
    # when those that are old and have ended are deleted: none; and then all that have ended
    assert stbass(*jobs, "--delete", "--older-than", "12h").stdout == ""
    done = stbass(*jobs, "--delete", "--older-than", "0s", "--json")
    assert [job["job_id"] for job in json.loads(done.stdout)["deleted"]] == ["Job_12345678"]
    # then the other is deleted only by its name, and only once
    assert [line.split()[0] for line in stbass(*jobs).stdout.splitlines()] == ["Job_87654321"]
    assert stbass(*jobs, "--delete", "--job-id", "Job_87654321").returncode == 0
    again = stbass(*jobs, "--delete", "--job-id", "Job_87654321")
    assert (again.returncode, again.stderr) == (1, "stbass: there is no Job_87654321\n")
    wrong = stbass(*jobs, "--older-than", "yesterday")
    assert (wrong.returncode, "30d" in wrong.stderr) == (3, True)


async def _make_job(path: Path, job_id: str) -> None:
    async with SqliteStateBackend(path, job_id=job_id):
        pass

"""``stbass process``: models in YAML files, run, checked and drawn."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stbass._process.sync_threads import SyncThreads
from stbass.cli.exits import Exit, complain
from stbass.cli.process_view import ModelView, summary_of
from stbass.dataflow.builder import ProcessBuilder
from stbass.dataflow.process import Process
from stbass.dataflow.spec.diagram import mermaid
from stbass.dataflow.spec.model import Part, ProcessSpec, load
from stbass.dataflow.spec.validation import check_model
from stbass.dataflow.state._records import check_job_id
from stbass.errors import (
    ConfigurationError,
    InvalidProcessError,
    JobFinishedError,
    ProcessCancelled,
    SpecError,
    StbassError,
)

__all__ = ["draw_process", "run_process", "state_part", "validate_process"]

_STATES = "sqlite:PATH, postgresql://… or redis://…"


def run_process(
    file: Path, job_id: str | None, process_type: str | None, state: str | None, as_json: bool, quiet: bool
) -> int:
    """Run the model in the file; gives back the exit code.

    Raises:
        ConfigurationError: the state or the job id is none.
    """
    try:
        spec = load(file)
        if state is not None:
            spec = spec.with_state(state_part(state))
        if job_id is not None:
            spec = _with_job(spec, job_id)
        process = _checked(file, spec, process_type)
    except (SpecError, InvalidProcessError) as error:
        _tell(file, error)
        if as_json:
            _write({"process": None, "status": None, "errors": list(error.findings)})
        return Exit.FAILED
    run = _Run(process, again=_command(file, process_type, state), quiet=quiet)
    began = time.monotonic()
    code = asyncio.run(run.go(), debug=False)
    result = summary_of(process, time.monotonic() - began)
    if as_json:
        _write({**result.data(), "errors": run.errors})
    elif run.began:
        sys.stdout.write(result.text())
    return code


def validate_process(file: Path, process_type: str | None, as_json: bool, imports: bool) -> int:
    """Say what is wrong with the model in the file; gives back the exit code.

    Its modules are imported and its components made, but none runs; without ``imports``, it is only read.
    """
    try:
        spec = load(file)
        parts = f"{_count(len(spec.components), 'component')}, {_count(len(spec.connectors), 'connector')}"
        if imports:
            process = _checked(file, spec, process_type)
            good = f"nothing is wrong ({type(process).__name__} {process.name!r}, {parts})"
        else:
            ProcessBuilder.check(spec, kind=process_type)
            good = f"nothing is wrong that can be seen without importing its modules ({parts})"
    except (SpecError, InvalidProcessError) as error:
        if as_json:
            _write({"file": str(file), "valid": False, "findings": list(error.findings)})
        else:
            _tell(file, error, "no component has run" if imports else "nothing was imported or run")
        return Exit.FAILED
    if as_json:
        _write({"file": str(file), "valid": True, "findings": []})
    else:
        sys.stdout.write(f"{file}: {good}\n")
    return Exit.OK


def draw_process(file: Path, direction: str, process_type: str | None) -> int:
    """Write the model in the file as a Mermaid diagram to standard output; gives back the exit code."""
    try:
        process = _made(file, load(file), process_type)
    except (SpecError, InvalidProcessError) as error:
        _tell(file, error)
        return Exit.FAILED
    groups = {name: str(group) for name, group in (getattr(process, "placement", None) or {}).items()}
    drawn = mermaid(process.components.values(), process.connectors.values(), groups=groups, direction=direction)
    sys.stdout.write(drawn)
    return Exit.OK


def _made(file: Path, spec: ProcessSpec, process_type: str | None) -> Process:
    # The modules of a model lie beside it or in the working directory; as with a script, those beside it come first.
    for folder in (os.getcwd(), str(file.resolve().parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return ProcessBuilder.build(spec, kind=process_type)


def _checked(file: Path, spec: ProcessSpec, process_type: str | None) -> Process:
    process = _made(file, spec, process_type)
    check_model(process.name, process.components.values(), process.connectors.values(), kind=process.kind)
    return process


def _tell(file: Path, error: SpecError | InvalidProcessError, end: str = "no component has run") -> None:
    for finding in error.findings:
        complain(f"{file}: {finding}")
    complain(f"{file}: {_count(len(error.findings), 'mistake')}; {end}")


def _write(outcome: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(outcome) + "\n")


def _with_job(spec: ProcessSpec, job_id: str) -> ProcessSpec:
    check_job_id(job_id)
    if spec.state is None:
        raise ConfigurationError(
            f"--job-id {job_id}: the model has no state that could have kept a job; give one: --state {_STATES}"
        )
    return spec.with_job(job_id)


def state_part(text: str) -> Part:
    """The state backend that ``--state`` names.

    Raises:
        ConfigurationError: it names none.
    """
    kind, colon, rest = text.partition(":")
    if kind == "sqlite" and rest.removeprefix("//"):
        return Part("stbass.dataflow.SqliteStateBackend", {"db_path": rest.removeprefix("//")}, ("--state",))
    if kind in ("postgres", "postgresql") and colon:
        return Part("stbass.dataflow.PostgresStateBackend", {"db_url": text}, ("--state",))
    if kind in ("redis", "rediss") and colon:
        return Part("stbass.dataflow.RedisStateBackend", {"url": text}, ("--state",))
    raise ConfigurationError(f"--state {text!r}: must be {_STATES}")


def _command(file: Path, process_type: str | None, state: str | None) -> str:
    """The command that goes on with a job, without its ``--job-id``."""
    words = ["stbass", "process", "run", str(file)]
    if process_type is not None:
        words += ["--process-type", process_type]
    if state is not None:
        words += ["--state", state]
    return shlex.join(words)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class _Run:
    """One run of a process, until it ends or is told to.

    Args:
        process: what to run.
        again: the command that goes on with it, without its ``--job-id``.
        quiet: whether to show nothing while it runs.
    """

    def __init__(self, process: Process, *, again: str, quiet: bool) -> None:
        self.process = process
        self.again = again
        self.quiet = quiet
        self.errors: list[str] = []
        self.began = False
        self.interrupts = 0

    async def go(self) -> int:
        """Run it; gives back the exit code."""
        code = Exit.OK
        # Not asyncio's own: a thread that a component was interrupted in would hold up the end of the program.
        asyncio.get_running_loop().set_default_executor(SyncThreads("stbass-to-thread"))
        try:
            with self._interruptible(), ModelView(self.process, quiet=self.quiet):
                await self._all_of_it()
        except (asyncio.CancelledError, ProcessCancelled):
            if not self.interrupts:
                raise
        except ConfigurationError as error:
            code = Exit.SETTINGS
            self.errors = [str(error)]
        except JobFinishedError as error:
            code = Exit.FAILED
            self.errors = [
                f"job {error.job_id} has run to its end: nothing was run. For another run leave out --job-id "
                f"(and job_id in the file), or give it another one"
            ]
        except Exception as error:
            # Components may raise anything; whoever runs the model wants to know which component it was, and where.
            code = Exit.FAILED
            self.errors = list(_sentences(error))
        for text in self.errors:
            complain(f"stbass: {text}")
        if self.interrupts:
            code = Exit.INTERRUPTED
        if code != Exit.OK:
            self._say_how_to_go_on()
        return code

    async def _all_of_it(self) -> None:
        async with self.process:
            self.began = True
            if self.process.state.durable and not self.quiet:
                sys.stderr.write(f"job {self.process.state.job_id}\n")
            await self.process.run()

    def _say_how_to_go_on(self) -> None:
        if not self.began:
            return
        what = "Interrupted" if self.interrupts else "Failed"
        state = self.process.state
        if state.durable:
            sys.stderr.write(f"{what}. To go on from the last checkpoint: {self.again} --job-id {state.job_id}\n")
        elif self.interrupts:
            sys.stderr.write(
                f"{what}. Nothing of this run was kept; with --state {_STATES} a run can be gone on with.\n"
            )

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the process in good order; a second one at once; a third one whatever it does."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts == 1:
                sys.stderr.write("\nstopping after the steps that are being made (again: at once)\n")
                loop.call_soon_threadsafe(self.process.cancel)
            elif self.interrupts == 2 and task is not None:
                loop.call_soon_threadsafe(task.cancel)
            else:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _sentences(error: BaseException, notes: tuple[str, ...] = ()) -> Iterator[str]:
    """A sentence for each error in the group: which component, what went wrong, and where in the program."""
    notes = (*notes, *getattr(error, "__notes__", ()))  # where it was, or what else went wrong
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _sentences(one, notes)
        return
    text = f"{error}" if isinstance(error, StbassError) else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames and not isinstance(error, StbassError) else ""
    )
    places = [note for note in notes if note.startswith("component ")]
    more = [note for note in notes if note not in places]
    yield "; ".join([": ".join([*places, text]) + where, *more])

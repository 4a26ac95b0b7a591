"""What every benchmark needs: rows, samples taken in turn while the machine is quiet, peers with their own Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quiet import busy_limit, foreign_share, read_cpu, wait_until_quiet

__all__ = [
    "ROOT",
    "Journal",
    "Options",
    "Row",
    "Sample",
    "SubjectFailed",
    "child_environment",
    "journal",
    "median_alternating",
    "options",
    "peer_python",
    "rows_of",
    "run_driver",
    "versions",
]

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one subject.

    Args:
        bench: which work, as the targets name it: ``"F1"``, or ``"F2 p99"`` for one of several figures of a benchmark.
        subject: who did it; ours is ``"stbass"``, alone or followed by a variant.
        value: the figure.
        unit: its unit; rows of one bench are compared if their units are equal.
        higher_is_better: whether a larger value is the better one.
        note: for people.
    """

    bench: str
    subject: str
    value: float
    unit: str
    higher_is_better: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: who, how much, and which share of the machine others used meanwhile."""

    subject: str
    value: float
    foreign: float
    busy: bool


@dataclass(slots=True)
class Options:
    """How thorough to be; set by the command line.

    Args:
        rounds: samples of each subject.
        patience: seconds to wait for a quiet machine before each sample.
        retake: whether a sample that was disturbed is taken once more.
        spare: seconds that others may still cost the whole run, by what is waited for them and what is taken once more.
    """

    rounds: int = 5
    patience: float = 20.0
    retake: bool = True
    spare: float = 300.0


@dataclass(slots=True)
class Journal:
    """What happened while the current benchmark ran."""

    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def count(self, subject: str) -> int:
        """How many samples a subject has."""
        return sum(sample.subject == subject for sample in self.samples)

    def clear(self) -> None:
        """Forget the previous benchmark."""
        self.samples.clear()
        self.failures.clear()


options = Options()
journal = Journal()
versions: dict[str, str] = {}
"""Package and its version, of everything that was measured so far."""


_CHANCES = 2
"""So often may a subject fail in one benchmark; each failure can cost the whole time that a driver is given."""


LONG, LONG_ROUNDS = 20.0, 3
"""What takes more seconds than this for a sample has no more than so many samples."""


class SubjectFailed(RuntimeError):
    """A subject could not be measured; the benchmark goes on without it and the table says so."""


def median_alternating(callables: Mapping[str, Callable[[], float]], rounds: int | None = None) -> dict[str, float]:
    """Sample every subject once per round, in turn, and give back each one's median.

    Before each sample the machine is given a bounded time to become quiet. A sample during which others were busy is
    taken once more; if that one is disturbed too it is kept and marked. Marked samples count only when a subject has no
    other. Every sample goes into :data:`journal`, from which the report says how quiet it was. A machine that is never
    quiet costs a bounded time: once ``options.spare`` is used up, samples are taken as they come, and marked.

    Args:
        callables: by subject; each call takes one sample and gives back its value.
        rounds: samples of each subject; ``None`` means what the command line said, 5 unless told otherwise. A subject
            whose samples take longer than :data:`LONG` seconds has :data:`LONG_ROUNDS` at most.

    Returns:
        The medians. A subject whose sample fails (:class:`SubjectFailed`) is tried again in the next round; one that
        fails twice is left alone from then on, and one without any sample is missing here.
    """
    taken: dict[str, list[Sample]] = {subject: [] for subject in callables}
    failures: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for number in range(options.rounds if rounds is None else rounds):
        for subject, measure in callables.items():
            if failures[subject] >= _CHANCES or (number >= LONG_ROUNDS and seconds.get(subject, 0.0) > LONG):
                continue
            try:
                sample, took = _sample(subject, measure)
                # The first may have made an environment.
                seconds[subject] = min(took, seconds.get(subject, took))
                if sample.busy and options.retake and options.spare > 0:
                    again, took = _sample(subject, measure)
                    options.spare -= took
                    sample = min(sample, again, key=lambda one: (one.busy, one.foreign))
            except SubjectFailed as error:
                failures[subject] += 1
                journal.failures.setdefault(subject, []).append(str(error))
                print(f"  {subject}: failed: {error}", file=sys.stderr)
                continue
            taken[subject].append(sample)
            journal.samples.append(sample)
    return {subject: median(samples) for subject, samples in taken.items() if samples}


def median(samples: Sequence[Sample]) -> float:
    """The median of the undisturbed samples; of all of them if every one was disturbed."""
    quiet = [sample.value for sample in samples if not sample.busy]
    return statistics.median(quiet or [sample.value for sample in samples])


def _sample(subject: str, measure: Callable[[], float]) -> tuple[Sample, float]:
    """Take one, and say how many seconds it took."""
    options.spare -= wait_until_quiet(min(options.patience, max(options.spare, 0.0)))
    begun = time.monotonic()
    before = read_cpu()
    value = measure()
    after = read_cpu()
    foreign = foreign_share(before, after)
    return Sample(subject, value, foreign, foreign > busy_limit(before, after)), time.monotonic() - begun


def rows_of(
    bench: str,
    medians: Mapping[str, float],
    unit: str,
    *,
    higher_is_better: bool,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """One row per subject that has a median."""
    notes = notes or {}
    return [
        Row(bench, subject, value, unit, higher_is_better, notes.get(subject, "")) for subject, value in medians.items()
    ]


# Peers -------------------------------------------------------------------------------------------


def peer_python(venv_name: str, requirements: Iterable[str], python: Path | None = None) -> Path:
    """The Python of ``.venvs/<venv_name>``, which is made with pip on first use and anew when the requirements change.

    Args:
        venv_name: directory under ``.venvs``.
        requirements: what is installed.
        python: what makes it, and so its version; ``None`` is the one that runs this.

    Raises:
        SubjectFailed: the environment could not be made.
    """
    base = f"python {sys.version_info.major}.{sys.version_info.minor}" if python is None else f"python {python}"
    wanted = [base, *requirements]
    home = ROOT / ".venvs" / venv_name
    made = home / "bin" / "python"
    stamp = home / "requirements.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return made
    print(f"  making .venvs/{venv_name}: {', '.join(wanted[1:])}", file=sys.stderr)
    if home.exists():
        shutil.rmtree(home)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted[1:]]
    for command in ([str(python or sys.executable), "-m", "venv", str(home)], [str(made), *install]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise SubjectFailed(f"cannot make .venvs/{venv_name}: {_last_line(done.stderr)}")
    # Last, so that an environment left half made is made again.
    stamp.write_text(json.dumps(wanted))
    return made


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a measured process: compiled modules are kept, as in any real installation."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    }
    return environment | extra


def run_driver(command: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a driver in a process group of its own and give back the JSON object on the last line that it prints.

    Whatever the driver started is gone when this returns: the group is ended by its id.

    Raises:
        SubjectFailed: it failed, printed nothing, or took longer than ``timeout`` seconds.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            output = None
        finally:
            _end_group(process)
        errors.seek(0)
        complaint = _last_line(errors.read())
    if output is None:
        raise SubjectFailed(f"took longer than {timeout:g} s; {complaint}")
    if process.returncode:
        raise SubjectFailed(f"exit code {process.returncode}: {complaint}")
    if not output.strip():
        raise SubjectFailed(f"printed nothing; {complaint}")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    versions.update(answer.get("versions", {}))
    return answer


def _end_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # everything in it has ended already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    # Without the path of this machine.
    return lines[-1].strip().replace(f"{ROOT}/", "") if lines else "(no message)"

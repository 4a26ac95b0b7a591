"""``python -m benchmarks [F1 F2 … | all] [--rounds N] [--quick]``: measure, print one table, write ``results.md``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import ROOT, Row, journal, options, versions
from benchmarks.report import Section, print_sections, section_of, write_markdown
from benchmarks.targets import WORK, is_our_subject

_FLEET = ("fleet", "limits", "runs", "tracing", "growth")
MODULES = (*_FLEET, "channels", "remote_channels", "composition", "dataflow", "frontends", "wire")
"""Where benchmarks are looked for: a function named ``f1`` that gives back rows is the benchmark F1."""


def discover() -> dict[str, Callable[[], list[Row]]]:
    """Every benchmark by its name, in the order of the list of targets."""
    found: dict[str, Callable[[], list[Row]]] = {}
    for name in MODULES:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        found |= {key.upper(): value for key, value in vars(module).items() if re.fullmatch(r"[a-z]\d", key)}
    order = [*WORK, *sorted(found)]
    return {name: found[name] for name in sorted(found, key=order.index)}


def run_all(benches: dict[str, Callable[[], list[Row]]], page: Path | None = None) -> tuple[list[Section], bool]:
    """Run them one after another; one that breaks is reported and the others go on.

    Args:
        page: where each section is written as soon as it is measured, so that a run that is ended keeps what it has.
    """
    sections: list[Section] = []
    sound = True
    for name, bench in benches.items():
        print(f"{name}: {WORK.get(name, '')}", file=sys.stderr, flush=True)
        journal.clear()
        versions.clear()
        versions["stbass-celery"] = version("stbass-celery")
        begun = time.monotonic()
        try:
            rows = bench()
        except Exception:
            # Said in full and counted in the exit code; hours of other results must not go with it.
            traceback.print_exc()
            sound = False
            continue
        sections.append(section_of(name, rows, journal))
        if page is not None:
            write_markdown(page, sections[-1:], versions, f"{options.rounds} rounds")
        # A peer that does not run is said in the table.
        sound = sound and all(journal.count(each) for each in journal.failures if is_our_subject(each))
        print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return sections, sound


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        0: all of ours was measured, whatever came out; 1: something of ours could not be measured.
    """
    benches = discover()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "bench", nargs="*", default=["all"], help=f"all, or some of {' '.join(benches)}; a letter means its group"
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each subject (5)")
    parser.add_argument(
        "--quick", action="store_true", help="one round, hardly waiting for a quiet machine; nothing is written"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results.md", help="the page to write")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    wanted: list[str] = [name.upper() for name in arguments.bench]
    unknown = [name for name in wanted if name != "ALL" and not any(bench.startswith(name) for bench in benches)]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: all {' '.join(benches)}")
    chosen = {
        name: run for name, run in benches.items() if any(want == "ALL" or name.startswith(want) for want in wanted)
    }

    options.rounds, options.patience, options.retake = arguments.rounds, 20.0, True
    if arguments.quick:
        options.rounds, options.patience, options.retake = 1, 1.0, False
    sections, sound = run_all(chosen, None if arguments.quick else arguments.out)
    print_sections(sections)
    if arguments.quick:
        print("Quick figures: one sample each, the machine perhaps busy. Nothing was written.")
    missed = [section.name for section in sections if section.missed]
    if missed:
        print(f"Targets missed in: {', '.join(missed)}")
    # A missed target is no error: how fast a machine is today must not decide whether a build is good.
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())

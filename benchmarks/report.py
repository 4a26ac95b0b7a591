"""The result table, on the terminal and in ``benchmarks/results.md``."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import LONG, LONG_ROUNDS, Journal, Row
from benchmarks.targets import TARGETS, WORK, advantage, is_ours, reached

__all__ = ["DID_NOT_RUN", "Section", "machine", "plain_table", "print_sections", "section_of", "write_markdown"]

HEADINGS = ("bench", "subject", "figure", "ours is", "target", "reached", "samples", "note")
DID_NOT_RUN = "did not run"
"""In place of the figure of a subject that could not be measured; the note says why."""
_BLANK = ("",) * 4
_TITLE = "# Benchmarks"
_SUMMARY = "## Targets"


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark, measured: its rows as text, and how the measuring went."""

    name: str
    lines: list[tuple[str, ...]]
    remarks: list[str]
    missed: bool


def section_of(name: str, rows: Sequence[Row], journal: Journal) -> Section:
    """Set the rows of one benchmark against each other and against the target."""
    lines: list[tuple[str, ...]] = []
    missed = False
    for bench in dict.fromkeys(row.bench for row in rows):
        of_bench = [row for row in rows if row.bench == bench]
        verdict = reached(bench, rows)
        missed = missed or verdict is False
        target = TARGETS[bench].text if bench in TARGETS else ""
        word = {True: "yes", False: "NO", None: "not known" if target else ""}[verdict]
        best = _best([row for row in of_bench if is_ours(row)])
        for row in sorted(
            of_bench, key=lambda row: (not is_ours(row), row.value * (-1 if row.higher_is_better else 1))
        ):
            ours = is_ours(row)
            ratio = "" if ours or best is None or best.unit != row.unit else _ratio(advantage(best, row))
            lines.append(
                (
                    bench,
                    row.subject,
                    f"{figure(row.value)} {row.unit}",
                    ratio,
                    target if row is best else "",
                    word if row is best else "",
                    _quietness(row.subject, journal),
                    row.note,
                )
            )
    first = lines[0][0] if lines else name
    for subject, reasons in journal.failures.items():
        if not journal.count(subject):
            lines.append((first, subject, DID_NOT_RUN, *_BLANK, "; ".join(dict.fromkeys(reasons))))
    return Section(name, lines, _remarks(journal), missed)


def _best(rows: Sequence[Row]) -> Row | None:
    if not rows:
        return None
    return max(rows, key=lambda row: row.value if row.higher_is_better else -row.value)


def _ratio(times: float) -> str:
    # Below 1 the reciprocal reads better: "0.25 x" makes people divide.
    return f"{times:.3g} x better" if times >= 1 else f"{1 / times:.3g} x WORSE"


def figure(value: float) -> str:
    """A number with three figures that matter, and thousands kept readable."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _quietness(subject: str, journal: Journal) -> str:
    samples = [sample for sample in journal.samples if sample.subject == subject]
    if not samples:
        return ""
    busy = sum(sample.busy for sample in samples)
    text = f"{len(samples)}, foreign CPU ≤ {max(sample.foreign for sample in samples):.0%}"
    if busy == len(samples):
        return f"{text}, ALL while busy"
    return f"{text}, {busy} while busy left out" if busy else text


def _remarks(journal: Journal) -> list[str]:
    remarks = [
        f"{subject} failed {len(reasons)} times beside {journal.count(subject)} samples: "
        f"{'; '.join(dict.fromkeys(reasons))}"
        for subject, reasons in journal.failures.items()
        if journal.count(subject)
    ]
    if journal.samples:
        busy = sum(sample.busy for sample in journal.samples)
        worst = max(sample.foreign for sample in journal.samples)
        remarks.append(
            f"{len(journal.samples)} samples, {busy} of them taken while the machine was busy; "
            f"others used at most {worst:.0%} of it during a sample."
        )
    return remarks


def machine() -> str:
    """Cores, memory and Python, and nothing that names the machine."""
    with open("/proc/meminfo") as meminfo:
        kibibytes = int(meminfo.readline().split()[1])
    return (
        f"{os.cpu_count()} cores, {kibibytes / 2**20:.0f} GiB of memory, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def plain_table(lines: Iterable[Sequence[str]]) -> str:
    """Columns aligned with spaces."""
    table = [HEADINGS, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def print_sections(sections: Sequence[Section]) -> None:
    """One table: a drawn one on a terminal, plain columns elsewhere; then what there is to say about the measuring."""
    if sys.stdout.isatty():
        table = Table(*HEADINGS)
        for section in sections:
            for line in section.lines:
                table.add_row(*line, style="red" if "NO" in line[5] else None)
            table.add_section()
        Console().print(table)
    else:
        print(plain_table(line for section in sections for line in section.lines))
    for section in sections:
        for remark in section.remarks:
            print(f"{section.name}: {remark}")


# results.md --------------------------------------------------------------------------------------


def write_markdown(path: Path, sections: Sequence[Section], versions: Mapping[str, str], how: str) -> None:
    """Write the sections, in place of those of the same name that the file already has; the others stay as they are."""
    kept = _read_sections(path.read_text()) if path.exists() else {}
    what = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    line = f"Measured on {date.today():%d %B %Y} with {how}, on {machine()}; {what}."
    kept.update({section.name: _markdown(section, line) for section in sections})
    ordered = [kept[name] for name in sorted(kept, key=_order)]
    path.write_text(
        f"{_TITLE}\n\n`make bench` writes this page. Ours and the peers' are sampled in turn on one Redis server; "
        f"a figure is the median;\nwhat takes longer than {LONG:g} s for a sample has {LONG_ROUNDS} samples at most. "
        f"“Ours is” compares with our best row of the same bench.\nOnly the ratios count.\n\n"
        + "\n".join([_summary(ordered), *ordered])
    )


def _summary(sections: Sequence[str]) -> str:
    """The rows of all sections that have a target, in one table: what is reached, and what is not."""
    columns = [HEADINGS.index(heading) for heading in ("bench", "figure", "target", "reached")]
    rows = [
        [cells[column + 1] for column in columns]
        for section in sections
        for line in section.splitlines()
        if line.startswith("| ") and len(cells := re.split(r"(?<!\\)\|", line)) == len(HEADINGS) + 2
    ]
    lines = [f"|{'|'.join(row)}|" for row in rows if row[2].strip() not in ("", "target", "---")]
    return "\n".join([_SUMMARY, "", "| bench | figure | target | reached |", "| --- | --- | --- | --- |", *lines, ""])


def _markdown(section: Section, line: str) -> str:
    cells = [HEADINGS, ("---",) * len(HEADINGS), *section.lines]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
    title = f"## {section.name}: {WORK[section.name]}" if section.name in WORK else f"## {section.name}"
    remarks = "\n".join(f"- {remark}" for remark in [*section.remarks, line])
    return f"{title}\n\n{table}\n\n{remarks}\n"


def _read_sections(text: str) -> dict[str, str]:
    parts = [part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:] if not part.startswith(_SUMMARY)]
    return {re.split(r"[:\s]", part[3:], maxsplit=1)[0]: part.rstrip() + "\n" for part in parts}


def _order(name: str) -> tuple[int, str]:
    known = list(WORK)
    return (known.index(name) if name in known else len(known), name)

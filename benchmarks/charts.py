"""Charts of ``benchmarks/results.md``: bars of ours and the peers', with what was measured, when and on what.

``python -m benchmarks.charts F1 chart.svg`` writes one; the pages of the documentation draw theirs when they are built.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.harness import ROOT, Row
from benchmarks.report import DID_NOT_RUN, figure
from benchmarks.targets import is_ours

__all__ = ["RESULTS", "chart"]

RESULTS = ROOT / "benchmarks" / "results.md"
_LABELS, _BARS, _FIGURES, _LINE, _TEXT = 190, 330, 200, 24, 12
_OURS, _PEER = "#c2571a", "#8aa5b8"


def chart(results: str, section: str) -> str:
    """A picture, as SVG, of one section of the results.

    Raises:
        LookupError: the results have no such section.
    """
    found = re.search(rf"^## {section}\b:? ?([^\n]*)\n(.*?)(?=^## |\Z)", results, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"benchmarks/results.md has no section {section}: python -m benchmarks {section} measures it")
    _headings, _rule, *lines = (line for line in found[2].splitlines() if line.startswith("|"))
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rows = [_row(line) for line in cells if line[2] != DID_NOT_RUN]
    remarks = [f"{line[1]} did not run: {line[-1]}" for line in cells if line[2] == DID_NOT_RUN]
    remarks += [line.removeprefix("- ") for line in found[2].splitlines() if line.startswith("- ")]
    parts = [_text(0, 16, f"{section}: {found[1]}" if found[1] else section, size=14)]
    top = _LINE
    for bench in dict.fromkeys(row.bench for row in rows):
        of_bench = [row for row in rows if row.bench == bench]
        unit = of_bench[0].unit
        parts.append(_text(0, top + 16, f"{bench}, {unit}" if bench != section else unit, colour="#777"))
        top += _LINE
        most = max(row.value for row in of_bench) or 1.0
        for row in of_bench:
            parts += _bar(row, top, row.value / most * _BARS)
            top += _LINE
    for line in (piece for remark in remarks for piece in _wrapped(remark)):
        parts.append(_text(0, top + 16, line, colour="#777", size=10))
        top += 14
    width = _LABELS + _BARS + _FIGURES
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + 12}" width="{width}"'
    return "\n".join([f'{begin} font-family="system-ui, sans-serif" fill="currentColor">', *parts, "</svg>"])


def _row(cells: Sequence[str]) -> Row:
    """A line of the table; the note says how ours compares."""
    number, _, unit = cells[2].partition(" ")
    return Row(cells[0], cells[1], float(number.replace(",", "")), unit, note=cells[3])


def _bar(row: Row, top: int, length: float) -> list[str]:
    compared = f" (ours is {row.note})" if row.note else ""
    return [
        _text(0, top + 16, row.subject),
        f'<rect x="{_LABELS}" y="{top + 4}" width="{max(length, 1):.1f}" height="{_LINE - 8}" rx="2"'
        f' fill="{_OURS if is_ours(row) else _PEER}"/>',
        _text(_LABELS + max(length, 1) + 6, top + 16, figure(row.value) + compared),
    ]


def _text(x: float, y: int, text: str, *, colour: str = "", size: int = _TEXT) -> str:
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}"{fill}>{escape(text)}</text>'


def _wrapped(text: str, most: int = 125) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] += f"{word} "
    return lines


def main() -> None:
    """Write the chart of the section that the command line names, on white: a picture has not the colours of a page."""
    section, target = sys.argv[1:]
    begin, rest = chart(RESULTS.read_text(), section).split("\n", 1)
    Path(target).write_text(f'{begin}\n<rect width="100%" height="100%" fill="#fff"/>\n{rest}\n')


if __name__ == "__main__":
    main()

"""Charts of ``benchmarks/results.md``: bars of ours and the peers', with what was measured, when and on what.

``python -m benchmarks.charts F1 chart.svg`` writes one; the pages of the documentation draw theirs when they are built.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.harness import ROOT

__all__ = ["RESULTS", "chart"]

RESULTS = ROOT / "benchmarks" / "results.md"
_LABELS, _BARS, _FIGURES, _LINE, _TEXT = 190, 330, 200, 24, 12
_OURS, _PEER = "#c2571a", "#8aa5b8"


@dataclass(frozen=True)
class _Bar:
    bench: str
    subject: str
    figure: str
    ratio: str

    @property
    def value(self) -> float:
        return float(self.figure.split()[0].replace(",", ""))

    @property
    def is_ours(self) -> bool:
        # Of a peer it says how ours compares.
        return not self.ratio


def chart(results: str, section: str) -> str:
    """A picture, as SVG, of one section of the results.

    Raises:
        LookupError: the results have no such section.
    """
    found = re.search(rf"^## {section}\b:? ?([^\n]*)\n(.*?)(?=^## |\Z)", results, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"benchmarks/results.md has no section {section}: python -m benchmarks {section} measures it")
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[2].splitlines() if "|" in line
    ]
    bars = [_Bar(*(cell.replace("\\|", "|") for cell in line[:4])) for line in lines[2:]]
    remarks = [line.removeprefix("- ") for line in found[2].splitlines() if line.startswith("- ")]
    parts: list[str] = []
    top = _heading(parts, 0, f"{section}: {found[1]}" if found[1] else section)
    for bench in dict.fromkeys(bar.bench for bar in bars):
        of_bench = [bar for bar in bars if bar.bench == bench]
        unit = of_bench[0].figure.partition(" ")[2]
        parts.append(_text(0, top + 16, f"{bench}, {unit}" if bench != section else unit, colour="#777"))
        top += _LINE
        most = max(bar.value for bar in of_bench) or 1.0
        for bar in of_bench:
            parts += _drawn(bar, top, bar.value / most * _BARS)
            top += _LINE
    for line in (piece for remark in remarks for piece in _wrapped(remark)):
        parts.append(_text(0, top + 16, line, colour="#777", size=10))
        top += 14
    width = _LABELS + _BARS + _FIGURES
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + 12}" width="{width}"'
    return "\n".join([f'{begin} font-family="system-ui, sans-serif" fill="currentColor">', *parts, "</svg>"])


def _heading(parts: list[str], top: int, text: str) -> int:
    parts.append(_text(0, top + 16, text, size=14))
    return top + _LINE


def _drawn(bar: _Bar, top: int, length: float) -> list[str]:
    ratio = f" (ours is {bar.ratio})" if bar.ratio else ""
    number = bar.figure.split()[0]
    return [
        _text(0, top + 16, bar.subject),
        f'<rect x="{_LABELS}" y="{top + 4}" width="{max(length, 1):.1f}" height="{_LINE - 8}" rx="2"'
        f' fill="{_OURS if bar.is_ours else _PEER}"/>',
        _text(_LABELS + max(length, 1) + 6, top + 16, f"{number}{ratio}"),
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
    """Write the chart of the section that the command line names."""
    section, target = sys.argv[1:]
    Path(target).write_text(chart(RESULTS.read_text(), section))


if __name__ == "__main__":
    main()

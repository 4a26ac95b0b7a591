"""What mkdocs does beside building: it lists the public names and the commands, and reads references in docstrings.

A page asks for all public names of a module with ``<!-- names: stbass.tasklist -->``, and for the command line with
``<!-- commands -->``. So no page can lack one. ``<!-- chart: F1 -->`` is a picture of what was measured last, and
``<!-- growth -->`` the table that is computed from it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer.main

from stbass.cli.commands import cli
from stbass.errors import StbassError

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.charts import RESULTS, chart
from benchmarks.growth import costs_of, growth_table

__all__ = ["names_of", "on_page_content", "on_page_markdown", "on_pre_build"]

_NAMES = re.compile(r"<!-- names: ([\w. ]+) -->")
_CHART = re.compile(r"<!-- chart: (\w+) -->")
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>~?([\w.]+)(\(\))?</code>")
_OUTSIDE = re.compile(r"\]\(\.\./((?:examples|benchmarks|deploy)[\w/.-]*|[A-Z]+\.md|Dockerfile|docker-compose\.yml)\)")


_listed: set[str] = set()
"""The names that a page of this build has: each has one place."""


def on_pre_build(**_: Any) -> None:
    """A build begins."""
    _listed.clear()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what the page asks for; name files of the repository that are no pages, in place of linking to them."""
    markdown = _NAMES.sub(lambda found: _entries(found[1].split()), markdown)
    markdown = _CHART.sub(lambda found: _chart(found[1]), markdown)
    if "<!-- growth -->" in markdown:
        markdown = markdown.replace("<!-- growth -->", _growth())
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n".join(_commands(typer.main.get_command(cli), "stbass")))
    return re.sub(r"\[([^]\[]*)" + _OUTSIDE.pattern, r"\1 (`\2` in the repository)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """The references and literal blocks of docstrings, as a reader of pages expects them."""
    html = _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}{found[2] or ''}</code>", html)
    return html.replace("::</p>", ":</p>")


def names_of(module: str) -> Iterator[str]:
    """Where the public names of a module are defined, as ``module.name``."""
    found = importlib.import_module(module)
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isclass(value) and issubclass(value, StbassError) and module != "stbass.errors":
            continue  # They have a page of their own.
        home = getattr(value, "__module__", None)
        is_ours = isinstance(home, str) and home.startswith("stbass") and hasattr(value, "__qualname__")
        yield f"{home}.{value.__qualname__}" if is_ours else f"{module}.{name}"


def _chart(section: str) -> str:
    """The chart, in one line, as Markdown wants it; or that it was not measured."""
    try:
        return chart(RESULTS.read_text(), section).replace("\n", "")
    except (FileNotFoundError, LookupError):
        return f"({section}: not measured in this checkout. `make bench` does.)"


def _growth() -> str:
    """The table of what fleets carry, of the costs that were measured; or that they were not."""
    try:
        return growth_table(costs_of(RESULTS.read_text()))
    except (FileNotFoundError, LookupError):
        return "(G1: not measured in this checkout. `make bench` does.)"


def _entries(modules: list[str]) -> str:
    names = [name for module in modules for name in names_of(module) if name not in _listed]
    _listed.update(names)
    return "\n\n".join(f"::: {name}" for name in dict.fromkeys(names))


def _commands(command: Any, path: str) -> Iterator[str]:
    """A section for each command: what it does, its options, its example."""
    if path != "stbass":
        yield f"\n## `{path}`\n"
    context = click.Context(command, info_name=path)
    yield f"\n{_text(command.help)}\n"
    options = [each.get_help_record(context) for each in command.get_params(context)]
    shown = [record for record in options if record is not None]
    if shown:
        yield "\n| option | meaning |\n|---|---|"
        yield from (f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in shown)
    if command.epilog:
        kind, _, rest = command.epilog.partition(": ")
        yield f"\n{kind}: {f'`{rest}`' if kind == 'Example' else rest}\n"
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, f"{path} {name}")


def _text(text: str | None) -> str:
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", (text or "").strip())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

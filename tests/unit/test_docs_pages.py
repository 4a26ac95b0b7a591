"""The pages: every public name and every error has a place in them. `make docs` builds them, and checks their links."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import stbass
from stbass import errors
from stbass.errors import StbassError

DOCS = Path(__file__).parents[2] / "docs"
NO_PAGE = {"__main__", "cli", "errors"}
"""Those that have a page of their own, and nothing to import."""


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What mkdocs is told to do beside building."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def listed(hooks: ModuleType) -> set[str]:
    """The names that the pages of the reference have."""
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    modules = " ".join(re.findall(r"<!-- names: ([\w. ]+) -->", pages)).split()
    assert modules
    return {name for module in modules for name in hooks.names_of(module)}


PUBLIC = sorted(
    name for _, name, _ in pkgutil.iter_modules(stbass.__path__) if not name.startswith("_") and name not in NO_PAGE
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_place_in_the_reference(name: str, listed: set[str], hooks: ModuleType) -> None:
    module = importlib.import_module(f"stbass.{name}")
    if not hasattr(module, "__all__") or name == "app":  # app is one object: the page on the fleet tells of it
        return
    missing = set(hooks.names_of(f"stbass.{name}")) - listed
    assert not missing, f"add `<!-- names: stbass.{name} -->` to a page of docs/reference"


def test_every_error_has_a_cause_and_a_remedy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, StbassError)
    }
    assert {name for name, _, _ in rows} == classes
    assert len(rows) == len(classes)


def test_the_page_of_the_command_line_has_every_command(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- commands -->")
    for command in ("worker", "dev", "demo", "process run"):
        assert f"## `stbass {command}`" in text
    assert "| `-e, --endpoint ENDPOINT` |" in text


def test_whatever_a_page_shows_to_be_run_is_run_by_a_test() -> None:
    # What it shows of an example stands there (test_docs_examples), and tests of examples run that.
    shown = re.compile(r"^```(?:console$|python\n(?!# examples/))", re.MULTILINE)
    pages = {page.name for page in DOCS.glob("*.md") if shown.search(page.read_text())}
    tests = "".join(file.read_text() for file in Path(__file__).parents[1].glob("*/test_*.py"))
    tried = {page for page in pages if page in tests or f'"{page.removesuffix(".md")}"' in tests}
    assert len(pages) > 10
    assert pages == tried

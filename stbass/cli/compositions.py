"""``stbass run`` and ``stbass graph``: compositions from the shell."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from typing import Any

from pydantic_core import to_jsonable_python

from stbass import observe
from stbass._process.context import Composable
from stbass._values.texts import printable, text_of
from stbass.cli.drawing import FORMATS, drawn
from stbass.cli.exits import Exit, complain
from stbass.cli.named import load_object
from stbass.errors import ConfigurationError, DeadlineExceeded
from stbass.placement import BackendRegistry
from stbass.result import ProcessResult
from stbass.runs import run
from stbass.seq import SEQ

__all__ = ["draw", "outcome_data", "run_here"]


def draw(reference: str, form: str) -> int:
    """Write the drawing of a composition to standard output; gives back the exit code.

    Raises:
        ConfigurationError: the reference stands for no composition.
    """
    sys.stdout.write(FORMATS[form](drawn(_composable(reference))))
    return Exit.OK


def run_here(
    reference: str, given: str | None, registry: str | None, deadline: float | None, as_json: bool, quiet: bool
) -> int:
    """Run a composition to its end; gives back the exit code.

    Args:
        given: what it finds on its channel ``input``, as JSON.

    Raises:
        ConfigurationError: a reference stands for nothing of the kind, or the input is no JSON.
    """
    process = _composable(reference)
    found = None if registry is None else load_object("--registry", registry)
    if found is not None and not isinstance(found, BackendRegistry):
        raise ConfigurationError(f"--registry {registry!r}: this is {text_of(found, 100)}, and not a BackendRegistry")
    with observe.progress() if not quiet else nullcontext():
        result = asyncio.run(_run(process, given, found, deadline))
    if as_json:
        sys.stdout.write(json.dumps(outcome_data(result)) + "\n")
    elif result.is_ok:
        value = result.value
        sys.stdout.write(f"{value if isinstance(value, str) else text_of(value, 100_000)}\n")
    if result.is_ok:
        return Exit.OK
    failure = result.failure
    complain("\n".join((failure.summary, *(f"  {printable(leaf)}" for leaf in failure.leaves[1:]))))
    return Exit.DEADLINE if isinstance(failure.error, DeadlineExceeded) else Exit.FAILED


async def _run(
    process: Composable, given: str | None, registry: BackendRegistry | None, deadline: float | None
) -> ProcessResult:
    if given is None:
        for lack in process.lacking():
            raise ConfigurationError(f"{lack.error()}, or give it with --input")
        return await run(process, registry=registry, deadline=deadline)
    try:
        value = json.loads(given)
    except ValueError as error:
        raise ConfigurationError(
            f"--input: this is not JSON: {error}; a text has quotes around it: --input '\"…\"'"
        ) from None
    done = await SEQ(process, registry=registry, deadline=deadline).with_name("stbass run").run(value)
    return done.results[0]


def _composable(reference: str) -> Composable:
    found = load_object("COMPOSITION", reference)
    if isinstance(found, Composable):
        return found
    hint = "; make one of it: a process is an object" if isinstance(found, type) else ""
    raise ConfigurationError(f"{reference!r} is {text_of(found, 100)}, and neither a process nor a composition{hint}")


def outcome_data(result: ProcessResult) -> dict[str, Any]:
    """An outcome, fit for JSON."""
    taken = None if result.elapsed is None else result.elapsed.total_seconds()
    if result.is_ok:
        value = to_jsonable_python(result.value, fallback=text_of, serialize_unknown=True)
        return {"ok": True, "value": value, "elapsed": taken}
    failure = result.failure
    return {"ok": False, "error": failure.summary, "leaves": list(failure.leaves), "elapsed": taken}

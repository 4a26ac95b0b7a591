"""What a command line names, imported: the Celery application, and modules. What goes wrong is said in one sentence."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import kombu
from celery.app.utils import find_app

import stbass
from stbass.backends.celery.settings import fleet_of
from stbass.errors import ConfigurationError, MissingDependencyError

__all__ = ["import_named", "load_application"]

_INSTALL = "from stbass.backends.celery import install; install(app)"
_LIBRARIES = tuple(str(Path(module.__file__).parent) + os.sep for module in (celery, kombu, stbass) if module.__file__)
_STANDARD, _INSTALLED = (
    tuple({sysconfig.get_path(kind) + os.sep for kind in kinds})
    for kinds in (("stdlib", "platstdlib"), ("purelib", "platlib"))
)


def load_application(app: str) -> Any:
    """The Celery application that ``--app`` names, in which stbass is installed.

    Raises:
        ConfigurationError: there is none, its module raises, or it does not run processes.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = _imported(f"--app {app!r}", "there is no such Celery application", lambda: find_app(app))
    if not isinstance(found, celery.Celery):
        raise ConfigurationError(f"--app {app!r}: this is {found!r}, and not a Celery application")
    if not fleet_of(found).installed:
        raise ConfigurationError(
            f"--app {app!r}: this Celery application does not run processes; add this line where it is made: {_INSTALL}"
        )
    return found


def import_named(application: Any, option: str, module: str) -> None:
    """Import a module that an option names, as the application's worker does.

    Raises:
        ConfigurationError: it is not there, or raises.
    """
    _imported(f"{option} {module!r}", "there is no such module", lambda: application.loader.import_task_module(module))


def _imported(what: str, missing: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:
        # kombu and Celery raise errors of their own over the one that says why.
        for cause in _chain(error):
            if isinstance(cause, (ConfigurationError, MissingDependencyError)):
                raise cause from None
        for cause in _chain(error):
            place = None if str(cause).startswith("Couldn't import") else _place(cause)
            if place is not None:
                raise ConfigurationError(f"{what}: {place} raises {type(cause).__name__}: {cause}") from error
        raise ConfigurationError(f"{what}: {missing} to be found from {os.getcwd()} ({error})") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _place(error: BaseException) -> str | None:
    """The last line of the user's own code that the error went through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno},"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)] or frames
    return f"{own[-1].filename}, line {own[-1].lineno} ({own[-1].line})," if own else None


def _is_machinery(file: str) -> bool:
    """Whether it is a file of Python itself, of stbass or of Celery."""
    standard = file.startswith(_STANDARD) and not file.startswith(_INSTALLED)
    return standard or file.startswith(("<", *_LIBRARIES))

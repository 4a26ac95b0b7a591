"""What a command line names, imported: the Celery application, modules, and what is in them.

What goes wrong is said in one sentence.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbass.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from stbass.backends.celery.settings import FleetSettings

__all__ = ["APPLICATION", "import_named", "load_application", "load_object", "load_settings"]

APPLICATION = "stbass.app"
"""The one that the environment describes."""

_INSTALL = "from stbass.backends.celery import install; install(app)"


def load_application(app: str) -> Any:
    """The Celery application that ``--app`` names, in which stbass is installed.

    Raises:
        ConfigurationError: there is none, its module raises, or it does not run processes.
    """
    import celery
    from celery.app.utils import find_app

    from stbass.backends.celery.settings import fleet_of

    _refuse_file(f"--app {app!r}", app)
    _look_here()
    found = _imported(f"--app {app!r}", "there is no such Celery application", lambda: find_app(app))
    if not isinstance(found, celery.Celery):
        raise ConfigurationError(f"--app {app!r}: this is {found!r}, and not a Celery application")
    names = vars(sys.modules[app]) if app in sys.modules else {}
    several = {value: name for name, value in names.items() if isinstance(value, celery.Celery)}
    if len(several) > 1 and found not in (names.get("app"), names.get("celery")):
        raise ConfigurationError(
            f"--app {app!r}: this module has several Celery applications, {', '.join(several.values())};"
            f" say which one: --app {app}:{several[found]}"
        )
    if not fleet_of(found).installed:
        raise ConfigurationError(
            f"--app {app!r}: this Celery application does not run processes; add this line where it is made: {_INSTALL}"
        )
    return found


def load_settings(app: str) -> tuple[FleetSettings, Any]:
    """What the application that ``--app`` names is set to, and the application.

    It is None for :data:`APPLICATION`, if its broker is Redis: what the environment says is then all that one must know
    to look at the fleet, and to load Celery would take more time than to look.

    Raises:
        ConfigurationError: see :func:`load_application`.
    """
    from stbass.backends.celery.settings import PlainConf, fleet_of, read_settings

    # Celery heeds variables of its own, above what an application is told.
    if app == APPLICATION and not any(name.startswith("CELERY_") for name in os.environ):
        from stbass.settings import Settings

        settings = read_settings(PlainConf(Settings.from_environment().for_celery()))
        if settings.broker is not None:
            return settings, None
    fleet = fleet_of(load_application(app))
    return fleet.settings, fleet.app


def load_object(what: str, reference: str) -> Any:
    """What ``module:name`` stands for.

    Args:
        what: for messages: the option or argument that it was given for.

    Raises:
        ConfigurationError: it is no such reference, there is no such module or name, or the module raises.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{what} {reference!r}: write module:name, such as pipelines.reports:daily")
    shown = f"{what} {reference!r}"
    _refuse_file(shown, module)
    _look_here()
    found = _imported(shown, f"there is no module {module!r}", lambda: importlib.import_module(module))
    try:
        return reduce(getattr, name.split("."), found)
    except AttributeError:
        raise ConfigurationError(f"{shown}: the module {module!r} ({found.__file__}) has no {name!r}") from None


def _look_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def import_named(application: Any, option: str, module: str) -> None:
    """Import a module that an option names, as the application's worker does.

    Raises:
        ConfigurationError: it is not there, or raises.
    """
    shown = f"{option} {module!r}"
    _refuse_file(shown, module)
    _imported(shown, "there is no such module", lambda: application.loader.import_task_module(module))


def _refuse_file(what: str, module: str) -> None:
    """Say how a module is named to those who name its file."""
    file, _, _ = module.partition(":")
    if file.endswith(".py") or os.sep in file:
        name = ".".join(part for part in Path(file).with_suffix("").parts if part not in (os.sep, ".", ".."))
        raise ConfigurationError(f"{what}: write the name of the module, such as {name}, and not that of its file")


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
        *_, first = _chain(error)
        raise ConfigurationError(f"{what}: {missing} to be found from {os.getcwd()} ({first})") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _place(error: BaseException) -> str | None:
    """The last line of the user's own code that the error went through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno},"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    own = [frame for frame in frames if not frame.filename.startswith(_folders("purelib", "platlib"))] or frames
    return f"{own[-1].filename}, line {own[-1].lineno} ({own[-1].line})," if own else None


@cache
def _folders(*kinds: str) -> tuple[str, ...]:
    import sysconfig  # seldom needed, and slow to load

    return tuple({sysconfig.get_path(kind) + os.sep for kind in kinds})


def _is_machinery(file: str) -> bool:
    """Whether it is a file of Python itself, of stbass or of Celery."""
    loaded = [sys.modules.get(name) for name in ("celery", "kombu", "stbass")]
    libraries = [str(Path(module.__file__).parent) + os.sep for module in loaded if module and module.__file__]
    standard = file.startswith(_folders("stdlib", "platstdlib")) and not file.startswith(_folders("purelib", "platlib"))
    return standard or file.startswith(("<", *libraries))

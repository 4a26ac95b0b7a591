"""What reading from and writing to a database have in common: SQLAlchemy, used from one thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stbass._values.texts import value_text
from stbass.errors import DataflowError, MissingDependencyError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["Database"]


class Database:
    """A database by its address.

    Args:
        kind: the class of component that uses it, for messages.
        address: SQLAlchemy's, such as ``sqlite:///file.db`` or ``postgresql+psycopg://user@host/name``.
        options: of SQLAlchemy's ``create_engine``.

    Raises:
        MissingDependencyError: SQLAlchemy is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: it is no address, or the options turn transactions off.
    """

    def __init__(self, kind: type, address: str, options: Mapping[str, Any] | None) -> None:
        try:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError
        except ImportError as error:
            raise MissingDependencyError(
                f"{kind.__name__} needs SQLAlchemy ({error}): pip install 'stbass-celery[sql]'"
            ) from error
        if not isinstance(address, str):
            raise TypeError(f"{kind.__name__}(connection_string=…) takes text, got a {type(address).__name__}")
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"{kind.__name__}(connect_args=…) takes a mapping, got {value_text(options)}")
        try:
            self._url = make_url(address)
        except (ArgumentError, ValueError):
            # Not shown as it was given: there may be a password in it.
            raise ValueError(
                f"{kind.__name__}(connection_string=…) is no address of a database such as 'sqlite:///file.db' or "
                "'postgresql+psycopg://user@host/name'"
            ) from None
        self._options = dict(options or {})
        if self._options.get("isolation_level") == "AUTOCOMMIT":
            raise ValueError(f"{kind.__name__}: with isolation_level='AUTOCOMMIT' rows could be there in part or twice")
        self._engine: Engine | None = None

    @property
    def shown(self) -> str:
        """The address, without the password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine; made when it is first used.

        Raises:
            DataflowError: the driver is for asyncio only, or there is none.
            MissingDependencyError: the driver is not installed.
        """
        if self._engine is None:
            from sqlalchemy import create_engine
            from sqlalchemy.exc import NoSuchModuleError

            try:
                engine = create_engine(self._url, **{"pool_pre_ping": True, **self._options})
            except NoSuchModuleError as error:
                raise DataflowError(f"{self.shown}: {error}") from error
            except ImportError as error:
                raise MissingDependencyError(f"{self.shown}: its driver is not installed: {error}") from error
            if engine.dialect.is_async:
                raise DataflowError(
                    f"{self.shown}: a driver for asyncio only. Calls are made in a thread: take one that blocks, "
                    "such as 'postgresql+psycopg' or 'sqlite'"
                )
            self._engine = engine
        return self._engine

    def close(self) -> None:
        """Close its connections. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Errors of SQLAlchemy, and of text that is not valid Unicode, as ours, which say what was being done, and
        neither passwords nor rows.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, UnicodeError) as error:
            # `orig` is what the driver said; SQLAlchemy's own text has the rows in it, which may be thousands.
            said = getattr(error, "orig", None) or error
            raise DataflowError(f"cannot {doing} {self.shown}: {type(said).__name__}: {said}") from error

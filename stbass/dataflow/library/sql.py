"""Reading and writing SQL databases, through SQLAlchemy (the extra ``sql``)."""

from __future__ import annotations

from stbass.dataflow.library.sql_reader import SQLReader
from stbass.dataflow.library.sql_writer import SQLWriter

__all__ = ["SQLReader", "SQLWriter"]

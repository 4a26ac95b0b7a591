"""Ready components: readers and writers of files and of SQL databases.

The names are loaded when they are first used. pyarrow (the extra ``parquet``) and SQLAlchemy (``sql``) are imported
only by what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.dataflow.library.data import DataReader, DataWriter
    from stbass.dataflow.library.files import FileReader, FileWriter
    from stbass.dataflow.library.formats import Chunk
    from stbass.dataflow.library.sql_reader import SQLReader
    from stbass.dataflow.library.sql_writer import SQLWriter

__all__ = ["Chunk", "DataReader", "DataWriter", "FileReader", "FileWriter", "SQLReader", "SQLWriter"]

_HOME = {
    "Chunk": "formats",
    "DataReader": "data",
    "DataWriter": "data",
    "FileReader": "files",
    "FileWriter": "files",
    "SQLReader": "sql_reader",
    "SQLWriter": "sql_writer",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)

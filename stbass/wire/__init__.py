"""Values, exceptions, processes and results as bytes, and back.

What travels is JSON text, never pickle. :func:`loads` imports nothing and calls nothing of a message's choosing: a
class is used only if its module is already imported (else the value is an :class:`Opaque`), and a process only if it is
among those that the imported modules define and the worker admits. What travels how is in the page *What travels*; for
classes that no rule covers there is :func:`register`.
"""

from stbass._values.opaque import Opaque
from stbass.wire.admission import Admission
from stbass.wire.codec import (
    LIMIT,
    Decoder,
    dump_error,
    dump_result,
    dumps,
    load_error,
    load_result,
    loads,
    loads_process,
    result_or_failure,
)
from stbass.wire.core import MAX_DEPTH
from stbass.wire.exceptions import REMOTE_TRACEBACK
from stbass.wire.registered import register
from stbass.wire.responses import Headers, RemoteResponse
from stbass.wire.signing import MIN_KEY_BYTES, Signer

__all__ = [
    "LIMIT",
    "MAX_DEPTH",
    "MIN_KEY_BYTES",
    "REMOTE_TRACEBACK",
    "Admission",
    "Decoder",
    "Headers",
    "Opaque",
    "RemoteResponse",
    "Signer",
    "dump_error",
    "dump_result",
    "dumps",
    "load_error",
    "load_result",
    "loads",
    "loads_process",
    "register",
    "result_or_failure",
]

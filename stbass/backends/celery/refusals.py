"""What was refused: counted, told once per kind, and set aside where people can look at it.

In the result backend's database, after the fleet's prefix:

``stbass:refused``
    list of JSON objects (``at``, ``kind``, ``queue``, ``id``, ``reason``, ``body``: its first 2 KiB); worker and
    producer; people; for ever, but only the last 1,000 are kept, the newest first.
``stbass:refused:counts``
    hash, kind -> number of all that were ever refused; worker and producer; people; for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Any

import msgspec

from stbass._values.outcome import utc_now
from stbass._values.texts import plain_text, shortened
from stbass.observe import spans
from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.trouble import Vigil

__all__ = ["COUNTS", "KEPT", "REFUSED", "Refusals"]

_log = logging.getLogger(__name__)

REFUSED = "stbass:refused"
COUNTS = "stbass:refused:counts"
KEPT = 1000
_BODY_BYTES = 2048
_LONGEST = 500
_SECONDS = 60.0


class Refusals:
    """Takes note of what was refused, from any thread; a thread that lives as long as there is something writes it."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._unwritten: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._uncounted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        self.counts: Counter[str] = Counter()
        """How many were refused here, by kind."""

    def note(
        self, kind: str, reason: object, body: bytes | str = b"", *, queue: str = "", task_id: object = ""
    ) -> None:
        """Something was refused.

        Args:
            kind: of thing, such as ``message``; logged once each.
            reason: why; an error or a text.
            body: of what was refused; its beginning is kept.
            queue, task_id: where it was and what it said that it was, as far as that is known.
        """
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        record = {
            "at": utc_now().isoformat(),
            "kind": kind,
            "queue": shortened(queue, _LONGEST),
            "id": shortened(plain_text(task_id), _LONGEST),
            "reason": shortened(str(reason), _LONGEST),
            "body": raw[:_BODY_BYTES].decode("utf-8", "backslashreplace"),
        }
        with self._lock:
            self.counts[kind] += 1
            self._uncounted[kind] += 1
            self._unwritten.append(record)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="stbass-refusals", daemon=True)
                self._writer.start()
        spans.count("stbass.messages.refused", kind=kind)
        if self.counts[kind] == 1:
            where = f" in queue {record['queue']!r}" if queue else ""
            _log.error(
                "refused a %s%s: %s; it is kept in %s, more of the kind are only counted",
                kind,
                where,
                record["reason"],
                self._address.key(REFUSED),
            )

    def _write(self) -> None:
        vigil = Vigil("set aside what was refused", self._address, _log)
        client = self._address.client()
        try:
            while True:
                with self._lock:
                    records, counts = list(self._unwritten), self._uncounted
                    self._unwritten.clear()
                    self._uncounted = Counter()
                    if not records:
                        self._writer = None
                        return
                pipe = client.pipeline(transaction=False)
                pipe.lpush(self._address.key(REFUSED), *(msgspec.json.encode(record) for record in records))
                pipe.ltrim(self._address.key(REFUSED), 0, KEPT - 1)
                for kind, number in counts.items():
                    pipe.hincrby(self._address.key(COUNTS), kind, number)
                self._execute(pipe, vigil)
        finally:
            client.close()

    def _execute(self, pipe: Any, vigil: Vigil) -> None:
        while vigil.lasts < _SECONDS:
            try:
                pipe.execute(raise_on_error=True)
            except Exception as error:
                try:
                    time.sleep(vigil.pause(error))
                except Exception:
                    where = self._address.key(REFUSED)
                    _log.exception("what was refused cannot be set aside in %s; it is only counted here", where)
                    return
            else:
                vigil.over()
                return

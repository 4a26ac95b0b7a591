"""A process that holds a job and does what it is told on standard input, a line each; it answers with a line each.

``save N``: save checkpoint N; answers ``saved``, or the name of the error. ``fork``: fork a child that lives until
standard input ends. Anything else: end in an orderly way.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from stbass.errors import StateError
from tests.support.state_backends import make_backend


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is how this program answers


async def _hold(kind: str, where: str, options: dict[str, object]) -> None:
    async with make_backend(kind, where, **options) as state:
        await state.acquire_job()
        _say("held")
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            if words[0] == "save":
                try:
                    await state.save_checkpoint(int(words[1]), {"part": words[1].encode()})
                except StateError as error:
                    _say(type(error).__name__)
                else:
                    _say("saved")
            elif words[0] == "fork":
                if os.fork() == 0:
                    _wait_for_the_end()
                _say("forked")
            else:
                break


def _wait_for_the_end() -> None:
    # Not through sys.stdin: the parent's thread may have held its lock.
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_hold(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))

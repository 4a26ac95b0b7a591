"""Which of the known names somebody may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["did_you_mean"]

_LONGEST = 200
_LEAST = 0.59


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`` (did you mean …?)``, if one of the known names is near.

    A pattern such as ``local:*`` is near to what begins nearly as it does.
    """
    # Imported here, because only who makes a mistake needs it.
    from difflib import SequenceMatcher

    wanted = str(name)[:_LONGEST].casefold()
    nearest, best = "", _LEAST
    for one in known:
        fixed = re.split(r"[*?\[]", one)[0]
        compared = wanted if fixed == one else wanted[: len(fixed)]
        matcher = SequenceMatcher(None, fixed.casefold(), compared)
        # The first is an upper bound, and costs nothing.
        if matcher.real_quick_ratio() > best and (ratio := matcher.ratio()) > best:
            nearest, best = one, ratio
    return f" (did you mean {nearest!r}?)" if nearest else ""

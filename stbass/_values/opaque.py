"""A stand-in for a value that cannot be rebuilt where it arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Opaque"]


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value that could not be rebuilt here, as plain data.

    Either its class is not imported in this Python process, or is not what it was where the value was sent: then
    ``data`` holds what the value was made of, and sending it on sends the original, so that a receiver that knows the
    class gets the real thing. Or it was a part of a failure that could not travel at all: then ``data`` is the text of
    its ``repr``.

    Args:
        type_name: the ``module:qualname`` of its class.
        data: its fields by name; of an Enum member its name (of combined flags, the number); of an array its type,
            shape and bytes; or a text.
        kind: the tag of the form in which it came and is sent on; ``"opaque"`` for a text.
        rest: the other parts of that form.
        reason: why it is not the value itself.
    """

    type_name: str
    data: Any = None
    kind: str = field(default="opaque", repr=False)
    rest: Any = field(default=None, repr=False)
    reason: str = field(default="", repr=False, compare=False)

    def __hash__(self) -> int:
        # Without the data, which may be a dict: a frozen dataclass that was used as a key must stay hashable.
        return hash((self.type_name, self.kind))

    def __str__(self) -> str:
        # A message that is made of it, that of an error say, is to show what it was.
        return self.data if self.kind == "opaque" and isinstance(self.data, str) else repr(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__slots__:
            raise AttributeError(name)  # a copy that is being made has not even its own attributes yet
        # Whoever expected the real thing is told why this is not it.
        why = f": {self.reason}" if self.reason else ""
        raise AttributeError(f"a {self.type_name} arrived as Opaque, which has no attribute {name!r}{why}")

"""Classes and processes that the tests of :mod:`stbass.wire` send, and the comparison that they use."""

from __future__ import annotations

import enum
import struct
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, field_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from stbass._values.endpoint import Placement
from stbass.process import Process, ProcessContext

T = TypeVar("T")

ran: list[str] = []
"""Whose code was run while something was read; a test clears it."""


# Dataclasses -------------------------------------------------------------------------------------


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True, slots=True)
class Frozen:
    left: Any
    right: Any = None


@dataclass(kw_only=True)
class Account:
    name: str
    balance: int = 0
    history: list[int] = field(default_factory=list)
    total: int = field(init=False)
    kind: ClassVar[str] = "account"

    def __post_init__(self) -> None:
        ran.append("Account.__post_init__")
        self.total = self.balance + sum(self.history)
        self.opened = True


@dataclass
class Guarded:
    """Its post-init holds what cannot travel."""

    name: str

    def __post_init__(self) -> None:
        self.lock = threading.Lock()


@dataclass
class Sparse:
    given: int
    later: int = field(init=False)


@dataclass
class Box(Generic[T]):
    content: T

    @cached_property
    def doubled(self) -> Any:
        return [self.content, self.content]


@dataclass
class Spy:
    """Says so whenever any of its code is run."""

    value: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Spy:
        ran.append("Spy.__new__")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        ran.append("Spy.__post_init__")

    def __setattr__(self, name: str, value: Any) -> None:
        ran.append("Spy.__setattr__")
        object.__setattr__(self, name, value)

    def __reduce__(self) -> Any:
        ran.append("Spy.__reduce__")
        return super().__reduce__()

    def __setstate__(self, state: Any) -> None:
        ran.append("Spy.__setstate__")


@dataclass
class ListAndData(list[int]):
    name: str = ""


@checked_dataclass
class Checked:
    number: int
    text: str = ""


class Outer:
    @dataclass
    class Inner:
        value: Any


# Enums -------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796 - an alias
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Mode(enum.StrEnum):
    FAST = "fast"
    SLOW = "slow"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    RUN = enum.auto()


class Bits(enum.IntFlag):
    A = 1
    B = 2


class SpyFlag(enum.Flag):
    ONE = 1
    TWO = 2
    FOUR = 4

    @classmethod
    def _missing_(cls, value: object) -> Any:
        ran.append("SpyFlag._missing_")
        return super()._missing_(value)


# Named tuples, pydantic --------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any = None


class PairWithMore(Pair):
    """A subclass of a named tuple has a __dict__."""


class Person(BaseModel):
    name: str
    age: int = 0
    tags: list[str] = Field(default_factory=list)
    _secret: int = PrivateAttr(default=7)

    def keep(self, secret: int) -> None:
        self._secret = secret

    @property
    def kept(self) -> int:
        return self._secret

    @field_validator("age")
    @classmethod
    def _age(cls, value: int) -> int:
        ran.append("Person._age")
        return value

    @cached_property
    def greeting(self) -> str:
        return f"hello {self.name}"


class Team(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    lead: Person
    members: tuple[Person, ...] = ()


class Ages(RootModel[dict[str, int]]):
    pass


class Holder(BaseModel, Generic[T]):
    held: T


# Exceptions --------------------------------------------------------------------------------------


class OddError(Exception):
    """Keeps other arguments than it takes, and insists on its own."""

    def __init__(self, code: int, *, reason: str) -> None:
        ran.append("OddError.__init__")
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class NewError(Exception):
    def __new__(cls, *args: Any) -> NewError:
        ran.append("NewError.__new__")
        return super().__new__(cls, *args)


class SlottedError(Exception):
    __slots__ = ("detail", "message")

    def __init__(self, detail: Any, message: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.message = message


@dataclass
class DataError(Exception):
    code: int
    where: str = ""


class ManyErrors(ExceptionGroup[Exception]):
    """A group whose constructor takes more."""

    def __new__(cls, message: str, members: Any, code: int = 0) -> ManyErrors:
        ran.append("ManyErrors.__new__")
        return super().__new__(cls, message, members)

    def __init__(self, message: str, members: Any, code: int = 0) -> None:
        self.code = code


class FileGone(OSError, KeyError):
    """Two built-in bases."""


class WallError(Exception):
    """Raises, whatever it is asked for, as long as a test wants it: who looks through all objects may find it later."""

    stands: ClassVar[bool] = False

    def __getattribute__(self, name: str) -> Any:
        if WallError.stands:
            raise RuntimeError(f"no {name}")
        return super().__getattribute__(name)


class Thorny:
    """Raises when it is used as a number, as text or as a mapping."""

    def _raise(self, *args: object) -> Any:
        raise RuntimeError("not me")

    __float__ = __str__ = __repr__ = __iter__ = items = get = _raise


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        raise RuntimeError("no words")


# Processes ---------------------------------------------------------------------------------------


@Process
async def hello(ctx: ProcessContext) -> str:
    return "hello"


@Process(name="renamed")
async def given_name(ctx: ProcessContext) -> str:
    return "given"


@Process
def in_thread(ctx: ProcessContext) -> str:
    return "thread"


@Process(placement=Placement(model="opus"))
async def placed(ctx: ProcessContext) -> None:
    return None


@Process
async def sender(ctx: ProcessContext) -> None:
    await ctx.send("out", 17)


@Process
async def receiver(ctx: ProcessContext) -> Any:
    return await ctx.recv("in")


class Researcher(Process):
    def __init__(self, topic: Any, *, depth: int = 1, helpers: Any = ()) -> None:
        ran.append("Researcher.__init__")
        self.topic = topic
        self.depth = depth
        self.helpers = helpers

    async def run(self, ctx: ProcessContext) -> Any:
        return self.topic, self.depth


class Bare(Process):
    async def run(self, ctx: ProcessContext) -> None:
        return None


class Strict(Process):
    def __init__(self, number: int) -> None:
        if number < 0:
            raise ValueError("number must not be negative")
        if number == 666:
            raise SystemExit(3)

    async def run(self, ctx: ProcessContext) -> None:
        return None


def make_local() -> Process:
    @Process
    async def local(ctx: ProcessContext) -> None:
        return None

    return local


from_lambda = Process(lambda ctx: None)


def _twice(ctx: ProcessContext) -> int:
    return 2


class _Callable:
    async def __call__(self, ctx: ProcessContext) -> None:
        return None


from_callable = Process(_Callable())

first_of_two = Process(_twice)


def _twice(ctx: ProcessContext) -> int:  # type: ignore[no-redef]
    return 3


second_of_two = Process(_twice)


# Comparison --------------------------------------------------------------------------------------


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same in every way that a program can see: types, order, nan, the sign of zero."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, dict):
        return len(left) == len(right) and all(map(same, left.items(), right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        rest: list[Any] = list(right)
        for item in left:
            match = next((other for other in rest if same(item, other)), _NONE)
            if match is _NONE:
                return False
            rest = [other for other in rest if other is not match]
        return not rest
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if hasattr(left, "tzinfo"):
        moments = [moment.replace(tzinfo=None) for moment in (left, right)]
        same_zone = (left.fold, repr(left.tzinfo)) == (right.fold, repr(right.tzinfo))
        return bool(same_zone and moments[0] == moments[1])
    if isinstance(left, memoryview):
        return bool(left.tobytes() == right.tobytes())
    return bool(left == right)


_NONE: Any = object()

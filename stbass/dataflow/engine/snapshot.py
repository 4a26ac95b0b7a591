"""One snapshot of a host: everything that its components hold, at one moment of the whole process.

The moment is when :meth:`Snapshot.begin` is called. What lies in the channels between components here is looked at
then; a component that is between two steps gives its state then, one that is in the user's code at the end of that
step, before anything that the step has set is sent. As nothing is taken or sent in the user's code, the parts fit
together as if all had been looked at when it began.

Between hosts a mark travels with the values: what arrives after the moment but before the mark was sent before it, and
belongs to the snapshot too. It is kept in the part of the component that it is for.

The parts of all hosts are a checkpoint. A part is lines of JSON: what lies in the inboxes, by input; the rest of what
is ours; the user's state; then one line ``[input, value]`` for each value that arrived late.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from stbass._values.checks import awaited
from stbass.dataflow.engine.boundary import Inlet, OutletEdge
from stbass.dataflow.engine.edge import Inbox
from stbass.dataflow.engine.runner import Runner
from stbass.dataflow.engine.userstate import dump_item, dump_state, load_item, load_state
from stbass.dataflow.status import Status
from stbass.errors import StateError

__all__ = ["Snapshot", "restore"]


class Snapshot:
    """A snapshot that is being taken.

    Args:
        n: the number of the checkpoint that it is a part of.
        runners: what runs the components that it is of, by name.
        inlets: where values of other hosts arrive.
        done: called with the parts, by component, when it is complete.
        failed: called with the reason if it cannot be taken.
    """

    def __init__(
        self,
        n: int,
        runners: Mapping[str, Runner],
        inlets: Collection[Inlet],
        done: Callable[[Snapshot, Mapping[str, bytes]], None],
        failed: Callable[[Snapshot, Exception], None],
    ) -> None:
        self.n = n
        self._runners = runners
        self._inlets = inlets
        self._done = done
        self._failed = failed
        self._fields: dict[Runner, dict[str, list[bytes]]] = {}
        self._own: dict[Runner, int] = {}
        self._lines: dict[Runner, list[bytes]] = {}
        self._late: dict[Runner, list[bytes]] = {}
        self._to_come: set[Runner] = set()
        self._unmarked: set[Inlet] = set()
        self._begun = self._over = False
        self._hooks: set[asyncio.Future[Any]] = set()

    def begin(self, marked: Inlet | None = None) -> None:
        """Take the snapshot of this moment.

        Args:
            marked: the edge whose mark it was that came.
        """
        try:
            self._begin(marked)
        except Exception as error:
            self._fail(error)
            return
        self._begun = True
        self._look()

    def _begin(self, marked: Inlet | None) -> None:
        runners = self._runners.values()
        for runner in runners:
            self._fields[runner] = {inbox.name: self._contents(inbox) for inbox in runner.all_inboxes}
            self._own[runner] = 0 if runner.events is None else len(runner.events.own)
            self._late[runner] = []
        for inlet in self._inlets:
            owner = self._runners[inlet.spec.target]
            field = "" if inlet.spec.is_event else inlet.spec.input
            self._fields[owner][field] += [dump_item(owner.name, field, item) for item in inlet.waiting]
            if inlet is not marked and not inlet.closed and not inlet.gone:
                self._unmarked.add(inlet)
                inlet.record = self._recorder(owner, field)
                inlet.look_again()
        self._to_come = set(runners)
        for runner in runners:
            for edges in runner.edges.values():
                for edge in edges:
                    if isinstance(edge, OutletEdge):
                        edge.mark(self.n)
            if runner.in_user:
                runner.snapshot = self
            else:
                self._take_now(runner)

    def _contents(self, inbox: Inbox) -> list[bytes]:
        return [dump_item(inbox.owner.name, inbox.name, item) for item in inbox.contents()]

    def _recorder(self, owner: Runner, field: str) -> Any:
        def record(item: Any) -> None:
            self._late[owner].append(dump_item(owner.name, field, [field, item]))

        return record

    # The state of a component -------------------------------------------------------------------

    def _take_now(self, runner: Runner) -> None:
        state = self._begin_state(runner)
        if inspect.isawaitable(state):
            gate = runner.gate = asyncio.get_running_loop().create_future()
            runner.interrupt = True
            task: asyncio.Future[Any] = asyncio.ensure_future(state)
            self._hooks.add(task)
            task.add_done_callback(lambda task: self._taken(runner, task, gate))
        else:
            self._have_state(runner, state)

    def _taken(self, runner: Runner, task: asyncio.Future[Any], gate: asyncio.Future[None]) -> None:
        self._hooks.discard(task)
        runner.gate = None
        gate.set_result(None)
        if task.cancelled():
            return
        try:
            self._have_state(runner, task.result())
        except Exception as error:
            self._fail(error)
        else:
            self._look()

    async def take_state(self, runner: Runner) -> None:
        """The step of a component that was in the user's code has ended."""
        if self._over:
            return
        try:
            state = self._begin_state(runner)
            self._have_state(runner, await state if inspect.isawaitable(state) else state)
        except Exception as error:
            self._fail(error)
            return
        self._look()

    def populated(self, runner: Runner, field: str, value: Any) -> None:
        """A handler that was running at the moment has set an input."""
        if not self._over:
            self._fields[runner][field].append(dump_item(runner.name, field, value))

    def _begin_state(self, runner: Runner) -> Any:
        wiring = runner.wiring
        frame = {
            "steps": runner.steps,
            "ended": str(wiring.status) if runner.ended else None,
            "closing": wiring.closing and not runner.ended,
            "pending": [[edge.id, item] for edge, item in runner.pending if not edge.gone],
            "last": wiring.last,
            "own": self._own[runner],
        }
        self._lines[runner] = [dump_item(runner.name, "outputs", frame)]
        return runner.component.checkpoint()

    def _have_state(self, runner: Runner, state: Any) -> None:
        self._lines[runner].append(dump_state(runner.name, state))
        self._to_come.discard(runner)

    # Its end ------------------------------------------------------------------------------------

    def marked(self, inlet: Inlet) -> None:
        """The mark of an edge has come, or never will."""
        if inlet in self._unmarked:
            self._unmarked.discard(inlet)
            inlet.record = None
            self._look()

    def left(self, runner: Runner) -> None:
        """A component has ended in the user's code that it was in."""
        if runner.snapshot is self and runner in self._to_come:
            runner.snapshot = None
            try:
                self._take_now(runner)
            except Exception as error:
                self._fail(error)
            else:
                self._look()

    def _look(self) -> None:
        if not self._begun or self._over or self._to_come or self._unmarked:
            return
        self._end()
        parts: dict[str, bytes] = {}
        for runner, fields in self._fields.items():
            # The lines of the values are put together as they are: they were written one by one, at their time.
            first = b",".join(
                dump_item(runner.name, name, name) + b":[" + b",".join(lines) + b"]" for name, lines in fields.items()
            )
            parts[runner.name] = b"\n".join([b"{" + first + b"}", *self._lines[runner], *self._late[runner]])
        self._done(self, parts)

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self._end()
            self._failed(self, error)

    def abandon(self) -> None:
        """It will never be complete."""
        self._end()
        for task in list(self._hooks):
            task.cancel()

    def _end(self) -> None:
        self._over = True
        for inlet in self._unmarked:
            inlet.record = None
        for runner in self._runners.values():
            if runner.snapshot is self:
                runner.snapshot = None


async def restore(runner: Runner, part: bytes) -> None:
    """Put a component and its runner back as they were in a checkpoint.

    Raises:
        WireError: it is no part of a checkpoint.
        StateError: it is of a process with other inputs or connectors.
    """
    fields, frame, state, *late = part.split(b"\n")
    inboxes = {inbox.name: inbox for inbox in runner.all_inboxes}
    known: dict[str, Any] = load_item(fields)
    for name, values in [*known.items(), *((name, [value]) for name, value in map(load_item, late))]:
        if name not in inboxes:
            raise StateError(
                f"the checkpoint has values for '{runner.name}.{name}', which is no input of this process. Use the "
                f"process that the job was started with, or another job"
            )
        inbox = inboxes[name]
        if name in known and values is known[name]:
            inbox.backlog.clear()  # of initial values
        inbox.backlog.extend(values)
    rest: dict[str, Any] = load_item(frame)
    edges = {edge.id: edge for edges in runner.edges.values() for edge in edges}
    runner.steps = rest["steps"]
    lost = [edge_id for edge_id, _ in rest["pending"] if edge_id not in edges]
    if lost:
        raise StateError(
            f"the checkpoint has values that {runner.name!r} was about to send over {lost[0]!r}, which is no connector "
            f"of this process. Use the process that the job was started with, or another job"
        )
    runner.pending = [(edges[edge_id], item) for edge_id, item in rest["pending"]]
    runner.wiring.last.update(rest["last"])
    if runner.events is not None:
        runner.events.own.extend(runner.events.backlog.popleft() for _ in range(rest["own"]))
    await awaited(runner.component.restore(load_state(state)), "it")
    if rest["ended"] is not None:
        runner.end(Status(rest["ended"]))
    elif rest["closing"]:
        runner.wiring.closing = runner.interrupt = True

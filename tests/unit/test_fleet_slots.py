"""Whether a fleet has room for several processes at once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from stbass.backends.celery.producer.slots import WorkerSlots, free_slots, lacking
from stbass.dataflow.distributed.fleet_admission import check_room, not_admitted
from stbass.errors import AdmissionError


def worker(name: str, queues: Sequence[str], slots: int, running: int = 0) -> WorkerSlots:
    return WorkerSlots(name, tuple(queues), slots, running)


def test_free_are_those_that_nothing_runs_in() -> None:
    workers = [worker("1", "ab", 4, 1), worker("2", "b", 2, 5)]
    assert [one.free for one in workers] == [3, 0]
    assert free_slots("abc", workers) == {"a": 3, "b": 3, "c": 0}


def test_a_worker_of_two_queues_has_its_slots_once() -> None:
    workers = [worker("1", "ab", 2), worker("2", "b", 1)]
    # one of b has to go to the second, so that there is room for both of a
    assert lacking({"b": 1, "a": 2}, workers) is None
    assert lacking({"a": 2, "b": 1}, workers) is None
    assert lacking({"a": 2, "b": 2}, workers) == {"a": 2, "b": 2}
    assert lacking({"a": 3}, workers) == {"a": 3}
    assert lacking({"c": 1, "a": 1}, workers) == {"c": 1}


def test_there_is_room_if_and_only_if_no_queues_want_more_than_their_workers_have() -> None:
    dice = random.Random(1)
    seen = set()
    for _ in range(2000):
        workers = [
            worker(str(n), "".join(q for q in "abc" if dice.random() < 0.6), dice.randint(0, 3)) for n in range(3)
        ]
        needed = {queue: dice.randint(0, 4) for queue in "abc"}
        fits = all(
            sum(needed[queue] for queue in some)
            <= sum(one.free for one in workers if any(queue in one.queues for queue in some))
            for size in range(1, 4)
            for some in itertools.combinations("abc", size)
        )
        assert (lacking(needed, workers) is None) == fits, (needed, workers)
        seen.add(fits)
    assert seen == {True, False}


def test_the_error_says_what_is_needed_and_what_is_free() -> None:
    workers = [worker("1", ["left"], 2, 1), worker("2", ["right"], 2)]
    check_room("p", ["left", "right", "right"], workers)
    with pytest.raises(AdmissionError) as caught:
        check_room("p", ["left", "left", "right"], workers)
    assert str(caught.value) == (
        "process 'p' needs a slot for each of its groups at the same time. 'left': 2 needed, 1 free; 'right': 1 "
        "needed, 2 free. Start more workers there, or let them run more at once (-c)"
    )
    assert caught.value.needed == {"left": 2, "right": 1}
    assert caught.value.free == {"left": 1, "right": 2}


def test_slots_of_ones_own_groups_count_as_free() -> None:
    # given two groups that run in the only two slots, and a third that waits
    error = not_admitted("p", ["left", "left"], {"c@left": "left"}, 3.0, [worker("1", ["left"], 2, 2)])
    assert (error.needed, error.free) == ({"left": 3}, {"left": 2})
    assert "After 3 s no worker had taken group 'c@left'" in str(error)

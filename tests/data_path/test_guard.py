"""When a replica says that something ails it, and when it ends itself."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from closed_loop import until

from rayfleet_serving.link.call import Trouble
from rayfleet_serving.model import calls as counted
from rayfleet_serving.model import guard as guards
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.guard import (
    LIVES_S,
    LOOKS,
    QUIET_S,
    STARVED,
    WARM_UP_S,
    Guard,
    ReplicaEndsError,
    in_loop,
)
from rayfleet_serving.model.process_memory import MIB
from rayfleet_serving.model.share import LOSSES, Share
from rayfleet_serving.protocol.message import InferenceResult

NAME = "model digits, version 3,"


class Held(Share):
    """A share of which a test says what is taken."""

    def __init__(self) -> None:
        super().__init__(memory_bytes=None, gpu_memory_bytes=512 * MIB)
        self.beyond: str | None = None
        self.taken = False

    def over(self) -> str | None:
        return self.beyond

    def full(self) -> bool:
        return self.taken


@dataclass
class Replica:
    """A guard, and everything it does."""

    share: Held = field(default_factory=Held)
    lacks: bool = False
    told: list[Trouble | None] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    error: str = "Unable to allocate 1 GiB"

    def __post_init__(self) -> None:
        self.calls = Calls(self._predict, self.share, static_batch=None)
        self.guard = Guard(NAME, tell=self._tell, end=self.ended.append)
        self.guard.watch(self.calls, self.share, began=0.0)

    def _tell(self, trouble: Trouble | None) -> threading.Event:
        self.told.append(trouble)
        told = threading.Event()
        told.set()
        return told

    def _predict(self, inputs: dict[str, np.ndarray], form: str, params: dict[str, Any]) -> InferenceResult:
        if self.lacks:
            raise MemoryError(self.error)
        return InferenceResult({"y": inputs["x"]}, "array")

    def call(self, rows: int = 1, times: int = 1) -> None:
        for _ in range(times):
            try:
                self.calls({"x": np.zeros((rows, 1))}, "tensor", {})
            except MemoryError:
                assert self.lacks

    def look(self, now: float = LIVES_S + 1) -> str:
        found = self.guard.look(now)
        return f"{found.reason}: {found.message}" if found is not None else ""

    def looks(self, begin: float, times: int) -> str:
        """One each second; what the last one found."""
        return [self.look(begin + second) for second in range(times + 1)][-1]

    @property
    def ending(self) -> bool:
        try:
            self.guard.check()
        except ReplicaEndsError:
            return True
        return False


def test_a_model_that_answers_is_left_alone() -> None:
    replica = Replica()
    replica.call(times=5)
    assert (replica.look(), replica.ending) == ("", False)


def test_beyond_a_cap_for_two_looks_in_a_row_it_ends() -> None:
    replica = Replica()
    replica.share.beyond = "takes 7.1 GiB of GPU memory, its gpuMemory is 6 GiB"
    assert (replica.look(), replica.ending) == ("", False)
    assert replica.look() == (
        "OutOfMemory: model digits, version 3, takes 7.1 GiB of GPU memory, its gpuMemory is 6 GiB; its replica was "
        "replaced"
    )
    assert replica.ending


def test_beyond_a_cap_now_and_then_it_goes_on() -> None:
    replica = Replica()
    for _ in range(5):
        for beyond in ("takes too much", None):
            replica.share.beyond = beyond
            replica.look()
    assert LOOKS == 2
    assert not replica.ending


@pytest.mark.parametrize(("seconds", "ends"), [(1, False), (30, False), (64, False), (66, True)])
def test_a_call_ends_it_only_beyond_twice_the_timeout(seconds: int, ends: bool) -> None:
    replica = Replica()
    replica.calls.since = 1000.0
    said = replica.looks(1000.5, seconds)
    assert said.startswith("Stuck: model digits, version 3, computed one batch for more than 65 s") == ends
    assert replica.ending == ends


def test_a_longer_timeout_lets_a_call_take_longer() -> None:
    replica = Replica()
    replica.guard.stuck_after_s = 605
    replica.calls.since = 1000.0
    assert replica.looks(1000.5, 600) == ""
    assert replica.looks(1600.5, 10).startswith("Stuck")


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """By SIGSTOP, a frozen cgroup, or a machine that sleeps: the call went on as little as the guard."""
    replica = Replica()
    replica.calls.since = 1000.0
    replica.looks(1000.5, 5)
    assert replica.look(5000.0) == ""
    assert replica.looks(5001.0, 50) == ""
    assert replica.looks(5051.0, 20).startswith("Stuck")


def test_calls_of_which_each_ends_are_not_added_up() -> None:
    replica = Replica()
    for number in range(10):
        replica.calls.since = began = 1000.0 + 50 * number
        assert replica.looks(began, 50) == ""


def test_calls_one_after_the_other_are_no_call_without_an_end() -> None:
    replica = Replica()
    replica.call()
    assert replica.calls.since is None
    assert replica.look(1e9) == ""


def test_a_warm_up_may_take_its_time_but_not_for_ever() -> None:
    replica = Replica()
    replica.calls.warming_since = 1000.0
    assert replica.looks(1000.0, int(WARM_UP_S)) == ""
    said = replica.looks(1001.0 + WARM_UP_S, 1)
    assert said.startswith("Stuck: model digits, version 3, computed one batch to warm up for more than 1800 s")
    assert replica.ending


def test_a_call_and_a_warm_up_are_told_apart() -> None:
    replica = Replica()
    seen: list[tuple[bool, bool]] = []
    inner = replica.calls._predict

    def predict(*arguments: Any) -> InferenceResult:
        seen.append((replica.calls.since is not None, replica.calls.warming_since is not None))
        return inner(*arguments)

    replica.calls._predict = predict
    replica.calls.warm_up({"x": np.zeros((1, 1))}, "tensor", {})
    replica.call()
    assert seen == [(False, True), (True, False)]
    assert (replica.calls.since, replica.calls.warming_since) == (None, None)


def test_a_model_that_never_had_room_for_a_row_is_told_of_and_not_replaced() -> None:
    replica = Replica(lacks=True)
    replica.share.taken = True
    replica.call()
    assert replica.look() == (
        "OutOfMemory: model digits, version 3, needs more than its 512 MiB of GPU memory for a single row: "
        "MemoryError: Unable to allocate 1 GiB"
    )
    replica.call(times=10)
    assert not replica.ending


def test_a_model_that_keeps_what_it_has_taken_is_replaced() -> None:
    replica = Replica()
    replica.call()
    replica.lacks = replica.share.taken = True
    replica.call(times=STARVED - 1)
    assert replica.look() == ""
    replica.call()
    assert "kept nearly all of its 512 MiB of GPU memory" in replica.look()
    assert replica.ending


def test_a_model_that_took_everything_at_once_gets_no_new_start_at_once() -> None:
    replica = Replica()
    replica.call()
    replica.lacks = replica.share.taken = True
    replica.call(times=STARVED)
    assert "for a single row" in replica.look(LIVES_S - 1)
    assert not replica.ending
    assert "kept nearly all" in replica.look(LIVES_S + 1)
    assert replica.ending


def test_rows_that_are_too_large_do_not_replace_a_model_that_gives_its_memory_back() -> None:
    replica = Replica()
    replica.call()
    replica.lacks = True
    replica.call(times=STARVED)
    assert "for a single row" in replica.look()
    assert not replica.ending
    replica.lacks = False
    replica.call()
    assert "for a single row" in replica.look(LIVES_S + 1 + QUIET_S)
    assert replica.look(LIVES_S + 2 + QUIET_S) == ""


def test_what_is_told_of_lacking_memory_stays_while_rows_that_fit_come_between() -> None:
    replica = Replica()
    replica.call()
    told = set()
    for second in range(300):
        replica.lacks = second % 7 < STARVED
        replica.error = f"Tried to allocate {second} GiB. Process {second}"
        replica.call()
        told.add(replica.look(1000.0 + second))
    assert told == {
        "",
        "OutOfMemory: model digits, version 3, needs more than its 512 MiB of GPU memory for a single row: "
        f"MemoryError: Tried to allocate {STARVED - 1} GiB. Process {STARVED - 1}",
    }
    assert not replica.ending


def test_requests_that_were_lost_for_want_of_memory_replace_it() -> None:
    replica = Replica()
    for number in range(LOSSES - 1):
        replica.share.lacked()
        assert replica.look(1000.0 + number) == ""
    replica.share.lacked()
    assert replica.look(1010.0) == (
        "OutOfMemory: model digits, version 3, left no memory, of its 512 MiB of GPU memory, to take requests and "
        "answer them; its replica was replaced"
    )
    assert replica.ending


def test_one_that_waited_in_vain_is_enough() -> None:
    replica = Replica()
    replica.share.lacked(for_long=True)
    assert "left no memory" in replica.look()


def test_requests_lost_long_ago_are_forgotten() -> None:
    replica = Replica()
    for number in range(4 * LOSSES):
        replica.share.lacked()
        assert replica.look(1000.0 + (QUIET_S + 1) * number) == ""


def test_callers_with_large_rows_among_others_are_not_told_of() -> None:
    replica = Replica()
    for _ in range(10):
        replica.lacks = False
        replica.call()
        replica.lacks = True
        replica.call(times=STARVED - 1)
        assert replica.look() == ""


def test_a_batch_of_several_rows_that_does_not_fit_says_nothing_of_one_row() -> None:
    replica = Replica(lacks=True)
    replica.call(rows=2, times=9)
    assert replica.calls.out_of_memory == 9
    assert replica.look() == ""


async def test_the_routers_are_told_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LOOK_S", 0.01)
    replica = Replica(lacks=True)
    monkeypatch.setattr(guards, "QUIET_S", 0.05)
    replica.guard.start()
    try:
        replica.call()
        await until("it is told", lambda: replica.told)
        replica.lacks = False
        replica.call()
        await until("it is over", lambda: replica.told[-1] is None)
        assert replica.ended == []
        replica.share.beyond = "takes all"
        await until("it ends", lambda: replica.ended)
    finally:
        replica.guard.stop()
    assert replica.told[-1] is not None
    assert "takes all" in replica.told[-1].message
    assert set(replica.ended) == {guards.EXIT_CODE}


async def test_a_guard_that_finds_no_memory_itself_ends_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LOOK_S", 0.01)
    replica = Replica()
    parted: list[bool] = []
    monkeypatch.setattr(replica.share, "part", lambda: parted.append(True))

    def over() -> str | None:
        if not parted:
            raise MemoryError
        return None

    monkeypatch.setattr(replica.share, "over", over)
    replica.guard.start()
    try:
        await until("it ends", lambda: replica.ended)
    finally:
        replica.guard.stop()


def test_the_time_in_calls_is_counted_with_the_one_under_way() -> None:
    replica = Replica()
    replica.call(times=3)
    before = replica.calls.busy_s
    assert before > 0
    replica.calls.since = 100.0
    assert replica.calls.busy(130.0) == pytest.approx(before + 30)


def test_what_is_looked_for_in_vain_is_looked_for_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(counted, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    replica = Replica(lacks=True)
    replica.share.taken = True
    looked: list[float] = []
    monkeypatch.setattr(replica.share, "give_back", lambda: looked.append(now[0]))
    for _ in range(600):
        replica.call()
        now[0] += 1
    assert [round(after - before) for before, after in pairwise(looked)] == [11, 21, 41, 81, 81, 81, 81, 81, 81]
    replica.lacks = False
    replica.call()
    replica.lacks, replica.share.taken = True, False
    looked.clear()
    for _ in range(30):
        replica.call()
        now[0] += 1
    assert all(after - before <= 6 for before, after in pairwise(looked))
    assert len(looked) > 3


@pytest.mark.parametrize("tells", ["late", "never, as it raises"])
async def test_it_ends_once_the_event_loop_has_told_why(tells: str) -> None:
    """The loop may have no CPU, or none for this, just when the replica ends."""
    said: list[Trouble | None] = []
    ended: list[int] = []
    at_the_end: list[list[Trouble | None]] = []

    def tell(trouble: Trouble | None) -> None:
        if tells != "late":
            raise ValueError("no link")
        said.append(trouble)

    def end(code: int) -> None:
        at_the_end.append(list(said))
        ended.append(code)

    share = Held()
    share.beyond = "takes 7.1 GiB of GPU memory, its gpuMemory is 6 GiB"
    guard = Guard(NAME, tell=in_loop(asyncio.get_running_loop(), tell), end=end)
    guard.watch(Calls(lambda *_: None, share, static_batch=None), share)  # type: ignore[arg-type, return-value]
    guard.start()
    try:
        while guard._ending is None:
            time.sleep(0.01)  # noqa: ASYNC251
        time.sleep(2 * guards.FAREWELL_S)  # noqa: ASYNC251
        assert not ended
        await until("it has ended", lambda: ended, 30)
    finally:
        guard.stop()
    assert ended == [guards.EXIT_CODE]
    if tells == "late":
        ((trouble,),) = at_the_end
        assert trouble is not None
        assert trouble.reason == "OutOfMemory"

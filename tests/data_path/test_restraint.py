"""How many requests are let in while a version yields, by an injected clock and chance."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from fake_clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.router.restraint import FLOOR, LEAST_PER_S, Restraint, YieldedError

WHY = "Model b yields to model a."


class Scene:
    """So many requests each second, of which the device answers `could` at most."""

    def __init__(self, *, came: float = 100.0, could: float = 100.0) -> None:
        self.clock = Clock()
        self.restraint = Restraint(self.clock, random.Random(7).random)
        self.came = came
        self.could = could
        self.answered = min(came, could)

    def second(self, why: str = "", seconds: float = 1.0) -> int:
        """How many requests are let in in the second after the next look."""
        self.clock.forward(seconds)
        self.waiting = self.restraint.look(why, answered_per_s=self.answered, came_per_s=self.came)
        let_in = 0
        for _ in range(round(self.came)):
            if self.restraint.ratio < 1.0:
                try:
                    self.restraint.admit()
                except YieldedError:
                    continue
            let_in += 1
        self.answered = min(let_in, self.could)
        return let_in


def test_while_somebody_is_pressed_it_falls_by_three_tenths_a_second() -> None:
    scene = Scene(came=10_000, could=10_000)
    seen = [scene.second(WHY) / 10_000 for _ in range(4)]
    assert seen == pytest.approx([0.7, 0.49, 0.343, 0.2401], abs=0.02)


def test_it_is_never_starved_to_nothing() -> None:
    scene = Scene(came=10_000, could=10_000)
    for _ in range(60):
        scene.second(WHY)
    assert scene.restraint.ratio == FLOOR
    assert scene.second(WHY) == pytest.approx(500, rel=0.2)


def shares(scene: Scene, seconds: int, why: str = "") -> list[float]:
    """Of each of so many seconds, in points."""
    seen = []
    for _ in range(seconds):
        scene.second(why)
        seen.append(round(100 * scene.restraint.ratio))
    return seen


def test_afterwards_it_grows_to_what_is_known_to_be_good_stays_there_and_feels_its_way() -> None:
    scene = Scene()
    assert shares(scene, 20, WHY)[-1] == 5
    assert shares(scene, 7) == [15, 25, 35, 45, 55, 65, 70]
    assert set(shares(scene, 10)) == {70}
    assert shares(scene, 15) == [*range(72, 101, 2)]
    assert scene.second() == 100


def test_each_time_that_it_finds_no_more_room_it_stays_twice_as_long() -> None:
    """Somebody is pressed whenever more than half is let in."""
    scene = Scene()
    seen = []
    for _ in range(300):
        scene.second(WHY if scene.restraint.ratio > 0.5 else "")
        seen.append(scene.restraint.ratio)
    stays = [length for _, same in itertools.groupby(seen) if (length := len(list(same))) > 1]
    assert stays[:4] == [11, 21, 41, 41]
    assert sum(share > 0.5 for share in seen) < 0.1 * len(seen), "it is too much for a tenth of the time at most"


def test_callers_that_come_again_at_once_get_no_more_in() -> None:
    scene = Scene()
    for _ in range(20):
        scene.second(WHY)
    before = sum(scene.second(WHY) for _ in range(20)) / 20
    scene.came = 5000
    scene.second(WHY)
    after = sum(scene.second(WHY) for _ in range(20)) / 20
    assert before == pytest.approx(5, abs=2)
    assert after == pytest.approx(before, abs=3)


def test_of_more_than_it_could_answer_it_gives_way_at_once() -> None:
    """Else it would have its device to itself until the share is as small as what it could answer."""
    scene = Scene(came=1000, could=50)
    assert scene.second(WHY) == pytest.approx(35, abs=12)


def test_whoever_comes_below_the_share_is_let_in() -> None:
    scene = Scene()
    for _ in range(20):
        scene.second(WHY)
    scene.came = 2
    scene.second(WHY)
    assert [scene.second(WHY) for _ in range(20)] == [2] * 20


def test_many_that_come_after_a_quiet_second_are_not_let_in_all() -> None:
    scene = Scene()
    for _ in range(20):
        scene.second(WHY)
    scene.came = 0
    scene.second(WHY)
    scene.came = 5000
    assert scene.second(WHY) <= 10


def test_one_that_answered_nothing_before_is_let_in_a_little() -> None:
    scene = Scene(came=50, could=0)
    let_in = sum(scene.second(WHY) for _ in range(400))
    assert let_in / 400 == pytest.approx(FLOOR * LEAST_PER_S, abs=0.03)


def test_of_those_that_wait_as_many_are_refused_as_the_share_falls() -> None:
    scene = Scene()
    left = 1.0
    for _ in range(60):
        scene.second(WHY)
        left *= 1 - scene.waiting
    assert left == pytest.approx(FLOOR)
    scene.second()
    assert scene.waiting == 0.0


def test_each_caller_is_as_likely_to_be_let_in_as_the_next() -> None:
    scene = Scene(came=0)
    scene.restraint.look(WHY, answered_per_s=100.0, came_per_s=100.0)
    scene.clock.forward(1)
    scene.restraint.look(WHY, answered_per_s=100.0, came_per_s=100.0)
    had = [0] * 10
    for _ in range(200):
        for caller in range(10):
            try:
                scene.restraint.admit()
                had[caller] += 1
            except YieldedError:
                pass
        if _ == 0:
            scene.clock.forward(0.1)
            scene.restraint.look(WHY, answered_per_s=100.0, came_per_s=100.0)
    assert min(had) > 0.5 * max(had)


def test_it_is_said_to_whom_it_yields_and_when_to_come_again() -> None:
    scene = Scene()
    for _ in range(3):
        scene.second(WHY)
    error = scene.restraint.error()
    assert (error.status, error.code, error.message) == (429, "Yielded", WHY)
    assert error.retry_after == 7.0
    scene.second()
    assert scene.restraint.error().message == WHY, "while it recovers, too"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.integers(0, 50)), max_size=40))
def test_whatever_happens_the_share_stays_between_the_floor_and_all(looks: list[tuple[bool, float, int]]) -> None:
    clock = Clock()
    restraint = Restraint(clock, lambda: 0.5)
    for pressed, seconds, came in looks:
        before = restraint.ratio
        clock.forward(seconds)
        waiting = restraint.look(WHY if pressed else "", answered_per_s=float(came), came_per_s=float(came))
        assert FLOOR <= restraint.ratio <= 1.0
        assert restraint.ratio <= before if pressed else restraint.ratio >= before
        assert 0.0 <= waiting < 1.0
        assert not waiting or pressed
        for _ in range(came):
            with contextlib.suppress(YieldedError):
                restraint.admit()
        assert 1.0 <= (restraint.error().retry_after or 0.0) <= 10.0


@given(st.lists(st.floats(0.05, 2.0), min_size=1, max_size=20))
def test_how_often_it_looks_makes_no_difference(steps: list[float]) -> None:
    often, once = Clock(), Clock()
    one, other = Restraint(often), Restraint(once)
    for step in steps:
        often.forward(step)
        one.look(WHY, answered_per_s=1.0, came_per_s=1.0)
    for step in itertools.repeat(0.5, 1000):
        if once.now + step >= often.now:
            break
        once.forward(step)
        other.look(WHY, answered_per_s=1.0, came_per_s=1.0)
    once.forward(often.now - once.now)
    other.look(WHY, answered_per_s=1.0, came_per_s=1.0)
    assert one.ratio == pytest.approx(other.ratio)


@given(st.lists(st.booleans(), max_size=60))
def test_it_always_recovers_within_minutes(pressed: list[bool]) -> None:
    clock = Clock()
    restraint = Restraint(clock)
    for each in [*pressed, *[False] * 100]:
        clock.forward(1)
        restraint.look(WHY if each else "", answered_per_s=0.0, came_per_s=0.0)
    assert restraint.ratio == 1.0

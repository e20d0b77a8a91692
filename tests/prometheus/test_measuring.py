"""How often Prometheus is asked, and how long its answers are good for. It is a stand-in, and so is the clock."""

from __future__ import annotations

import time

import pytest
from closed_loop import until
from fake_clock import Clock

from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.prometheus import measuring as product
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.prometheus.measuring import EVERY_S, Measuring

from .stand_in import error, stand_in, vector

ERRORS = Question("digits", "errors", "new/2026/0/then")
SLOW = Question("digits", "slow", "new/2026/0/then")
LATER = Question("digits", "errors", "new/2026/1/now")
LONG_S = 60.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, a pass has the answers that come."""
    monkeypatch.setattr(product, "PATIENCE_S", LONG_S)


@pytest.mark.usefixtures("patient")
async def test_every_question_is_answered_and_asked_again_a_while_later() -> None:
    clock = Clock()
    measuring = Measuring(clock)
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.answers = {"errors[9s]": vector("0.5"), "slow[9s]": vector("7"), "errors[14s]": vector("0.25")}
        asked = {ERRORS: "errors[9s]", SLOW: "slow[9s]"}
        assert await measuring.measured(prometheus, asked) == {ERRORS: Answer(0.5), SLOW: Answer(7.0)}
        clock.forward(EVERY_S - 0.1)
        # Its window has grown, and it is still the same question.
        assert await measuring.measured(prometheus, {ERRORS: "errors[14s]"}) == {ERRORS: Answer(0.5)}
        assert sorted(server.queries()) == ["errors[9s]", "slow[9s]"]
        clock.forward(0.1)
        assert await measuring.measured(prometheus, {ERRORS: "errors[14s]"}) == {ERRORS: Answer(0.25)}


@pytest.mark.usefixtures("patient")
async def test_another_stage_has_no_answer_of_the_one_before() -> None:
    measuring = Measuring(Clock())
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.answers = {"errors[600s]": vector("0.5")}
        await measuring.measured(prometheus, {ERRORS: "errors[600s]"})
        assert await measuring.measured(prometheus, {LATER: "errors[1s]"}) == {LATER: Answer()}
        assert await measuring.measured(prometheus, {}) == {}
        # What was asked no more is not known any more.
        server.answers = {}
        assert await measuring.measured(prometheus, {ERRORS: "errors[600s]"}) == {ERRORS: Answer()}


@pytest.mark.usefixtures("patient")
async def test_an_answer_that_does_not_come_takes_the_place_of_the_one_before() -> None:
    clock = Clock()
    measuring = Measuring(clock)
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.answers = {"errors": vector("0.5")}
        await measuring.measured(prometheus, {ERRORS: "errors"})
        server.answers = {}
        server.say({}, 503)
        clock.forward(EVERY_S)
        assert await measuring.measured(prometheus, {ERRORS: "errors"}) == {
            ERRORS: Answer(problem="503: Service Unavailable")
        }


async def test_what_is_not_answered_holds_no_pass_up() -> None:
    clock = Clock()
    measuring = Measuring(clock)
    asked = {Question("digits", f"q{number}", "w"): f"q{number}" for number in range(30)}
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.pause.clear()
        for _ in range(3):
            began = time.monotonic()
            assert await measuring.measured(prometheus, asked) == {}
            assert time.monotonic() - began < 5
        server.pause.set()
        await until("all are answered", lambda: len(server.queries()) == len(asked))
        clock.forward(EVERY_S)
        found: dict[Question, Answer] = {}
        while len(found) < len(asked):
            found = await measuring.measured(prometheus, asked)
        await measuring.close()
    assert {len(set(server.queries())), len(server.queries())} == {30}, "none was asked twice at a time"


async def test_one_that_is_slow_delays_no_other() -> None:
    measuring = Measuring(Clock())
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.answers = {"errors": vector("0.5")}
        server.pause.clear()
        assert await measuring.measured(prometheus, {SLOW: "slow"}) == {}
        server.pause.set()
        found: dict[Question, Answer] = {}
        while ERRORS not in found:
            found = await measuring.measured(prometheus, {SLOW: "slow", ERRORS: "errors"})
        await measuring.close()
    assert found[ERRORS] == Answer(0.5)


async def test_whoever_closes_it_waits_for_no_answer() -> None:
    measuring = Measuring(Clock())
    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.pause.clear()
        assert await measuring.measured(prometheus, {ERRORS: "errors"}) == {}
        began = time.monotonic()
        await measuring.close()
        assert time.monotonic() - began < 10
        server.pause.set()


@pytest.mark.usefixtures("patient")
async def test_one_kind_of_problem_is_told_in_the_same_words() -> None:
    """Prometheus' words hold the window, which is another with each asking; statuses must not change with it."""
    clock = Clock()
    measuring = Measuring(clock)

    async def told(window: int) -> str:
        clock.forward(EVERY_S)
        return (await measuring.measured(prometheus, {ERRORS: f"errors[{window}ss]"}))[ERRORS].problem

    async with stand_in() as server, Prometheus(server.url, within_s=LONG_S) as prometheus:
        server.say(error("bad_data", 'bad number or duration syntax: "9ss"'), 400)
        first = await told(9)
        server.say(error("bad_data", 'bad number or duration syntax: "14ss"'), 400)
        assert await told(14) == first
        server.say(error("timeout", "too long"), 503)
        assert await told(19) == "timeout: too long"
        server.say(error("bad_data", 'bad number or duration syntax: "24ss"'), 400)
        assert "24ss" in await told(24)
        server.say(vector("1"))
        assert await told(29) == ""

"""What was answered last, so that no question is asked with every pass, and no pass waits for an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.prometheus.client import Prometheus

EVERY_S = 5.0
"""From an answer until the same is asked again. Prometheus itself seldom learns anything more often."""
PATIENCE_S = 0.5
"""One that answers does so within milliseconds. A pass looks after every model of a fleet, and one that does not answer
must hold none of them up."""


@dataclass(frozen=True)
class _Known:
    answer: Answer
    again_at: float


class Measuring:
    """Of one fleet. Nothing in it is needed: a new one asks again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._known: dict[Question, _Known] = {}
        self._asking: dict[Question, asyncio.Task[None]] = {}

    async def measured(self, prometheus: Prometheus, asked: Mapping[Question, str]) -> dict[Question, Answer]:
        """What was answered last to each question, at most some seconds ago; those that no answer has come to yet are
        left out. What is due is asked beside the passes, all of it at once, and one pass waits no more than
        `PATIENCE_S` for it.

        Args:
            asked: PromQL by question. What is not among them any more is forgotten.
        """
        self._known = {question: self._known[question] for question in asked if question in self._known}
        now = self._clock()
        for question, promql in asked.items():
            due = question not in self._known or self._known[question].again_at <= now
            if due and question not in self._asking:
                self._asking[question] = asyncio.create_task(self._ask(prometheus, question, promql))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=PATIENCE_S)
        return {question: self._known[question].answer for question in asked if question in self._known}

    async def close(self) -> None:
        """Wait for no answer any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _ask(self, prometheus: Prometheus, question: Question, promql: str) -> None:
        try:
            answer = await prometheus.value(promql)
        except Exception as error:
            # Nobody awaits this, so it would be told nowhere.
            answer = Answer(problem=f"asking failed: {type(error).__name__}: {error}")
        finally:
            del self._asking[question]
        self._known[question] = _Known(self._steady(question, answer), self._clock() + EVERY_S)

    def _steady(self, question: Question, answer: Answer) -> Answer:
        """A problem of the same kind as before is told in the same words: Prometheus' own hold positions and series
        that may be others each time, and would make news of every asking."""
        before = self._known.get(question)
        if before is None or not answer.problem:
            return answer
        same = answer.problem.partition(":")[0] == before.answer.problem.partition(":")[0]
        return before.answer if same else answer

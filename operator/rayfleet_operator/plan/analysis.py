"""What was counted and measured of a candidate in one stage, held against what must hold of it.

Three answers: it holds, it does not, or nothing can be concluded. Whatever may still be chance is not concluded: a step
waits, and is neither passed nor rolled back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rayfleet_operator.api.rollout import Analysis, Latency, Query
from rayfleet_operator.plan import chance, distance
from rayfleet_operator.plan.measured import Answer
from rayfleet_serving.config import WINDOW_BUCKETS, WindowCount, latency_bound

STABLE_SIGMAS = 3.0
"""By how many standard deviations of its rank the stable version's percentile is taken too high before the candidate is
found slower than it: that percentile, too, is only estimated."""


CHANCE = "more bad requests than may be, and that may be chance"
NOT_ASKED = Answer(problem="Prometheus has not answered yet")


class Outcome(StrEnum):
    PASS = "Pass"  # noqa: S105 - no password
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"


@dataclass(frozen=True)
class Count:
    """What all routers answered for one version in one window."""

    requests: int = 0
    failed: int = 0
    latency: Mapping[int, int] | None = None
    """Requests by latency bucket."""
    predictions: Mapping[str, int] | None = None
    """Answers by what was predicted, where routers count that."""

    @classmethod
    def of(cls, counts: Iterable[WindowCount]) -> Count:
        """The sum of what each router counted."""
        requests = failed = 0
        latency: Counter[int] = Counter()
        predictions: Counter[str] = Counter()
        for each in counts:
            requests += each.requests
            failed += each.failed
            latency.update({bucket: number for bucket, number in each.latency.items() if 0 <= bucket < WINDOW_BUCKETS})
            predictions.update(each.predictions)
        return cls(requests, min(failed, requests), dict(sorted(latency.items())), dict(sorted(predictions.items())))

    @property
    def timed(self) -> int:
        """Requests in the buckets."""
        return sum((self.latency or {}).values())

    def slower(self, seconds: float) -> int:
        """Requests that certainly took longer: a bucket that the bound lies in counts for none."""
        buckets = self.latency or {}
        return sum(number for bucket, number in buckets.items() if bucket > 0 and latency_bound(bucket - 1) >= seconds)

    def percentile(self, percent: float) -> float:
        """Seconds within which this percent of the requests were answered: the bound of its bucket. Raises ValueError
        without requests."""
        if self.timed == 0:
            raise ValueError("no request was counted")
        return self._at(math.ceil(self.timed * percent / 100))

    def at_most(self, percent: float, sigmas: float) -> float | None:
        """What the percentile hardly exceeds: its rank is taken so many standard deviations higher. None where that is
        beyond the last request: so few say nothing of it."""
        n, share = self.timed, percent / 100
        rank = math.ceil(n * share + sigmas * math.sqrt(n * share * (1 - share)))
        return self._at(rank) if 0 < rank <= n else None

    def _at(self, rank: int) -> float:
        seen = 0
        for bucket, number in sorted((self.latency or {}).items()):
            seen += number
            if seen >= rank:
                return latency_bound(bucket)
        raise AssertionError("ranks end with the last request")


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    """As in the spec: errorRate, latency.max, latency.maxRatioToStable, predictions; of a query its own."""
    outcome: Outcome
    message: str
    """Why. Where nothing can be concluded it is said in conditions, so it has no number that is news with each
    request."""
    numbers: str
    """What was counted and what may be, to the last request."""

    @property
    def told(self) -> str:
        """The numbers and, where they do not say it, why nothing can be concluded."""
        return self.numbers if self.numbers == self.message else f"{self.numbers}; {self.message}"


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def message(self) -> str:
        """The checks that decided; what several say alike, once."""
        return "; ".join(dict.fromkeys(check.message for check in self.checks if check.outcome == self.outcome))


def judge(analysis: Analysis, candidate: Count, stable: Count, measured: Mapping[str, Answer] | None = None) -> Verdict:
    """Hold what was counted and measured against the spec.

    Args:
        candidate: in the stage's window.
        stable: in the same window.
        measured: what was answered to queries in the same window, by their names.
    """
    checks = []
    if analysis.error_rate is not None:
        checks.append(_errors(analysis.error_rate.max_share, analysis.error_rate.max, candidate, analysis.min_requests))
    if analysis.latency is not None:
        checks += _latency(analysis.latency, candidate, stable, analysis.min_requests)
    if analysis.predictions is not None:
        checks.append(_predictions(analysis.predictions.max_distance, candidate, stable, analysis.min_requests))
    checks += [
        _query(query, (measured or {}).get(query.name, NOT_ASKED), candidate.requests, analysis.min_requests)
        for query in analysis.queries
    ]
    outcomes = {check.outcome for check in checks}
    # One that does not hold decides, whatever is not known of the others.
    outcome = next((each for each in (Outcome.FAIL, Outcome.INCONCLUSIVE) if each in outcomes), Outcome.PASS)
    return Verdict(outcome, tuple(checks))


def _errors(allowed: float, shown: str, candidate: Count, least: int) -> Check:
    n, failed = candidate.requests, candidate.failed
    share = f"{failed} of {n} requests failed ({_percent(failed, n)}, at most {shown} may)"
    return Check("errorRate", *_held(failed, n, allowed, least, share), share)


def _latency(latency: Latency, candidate: Count, stable: Count, least: int) -> list[Check]:
    checks = []
    if latency.max_seconds is not None:
        checks.append(
            _within("latency.max", latency.percentile, latency.max_seconds, latency.max_seconds, candidate, least)
        )
    if (ratio := latency.max_ratio_to_stable) is not None:
        name = "latency.maxRatioToStable"
        if stable.timed < least:
            few, took = f"of the stable version, {_few(stable.timed, least)}", _took(latency.percentile, candidate)
            checks.append(Check(name, Outcome.INCONCLUSIVE, few, took))
        else:
            bound = ratio * stable.percentile(latency.percentile)
            surest = stable.at_most(latency.percentile, STABLE_SIGMAS)
            surely = ratio * surest if surest is not None else None
            checks.append(_within(name, latency.percentile, bound, surely, candidate, least))
    return checks


def _predictions(allowed: float, candidate: Count, stable: Count, least: int) -> Check:
    name, mine, theirs = "predictions", candidate.predictions or {}, stable.predictions or {}
    n, m = sum(mine.values()), sum(theirs.values())
    few = f"of predictions to compare, {_few(min(n, m), least)}"
    waiting = Check(name, Outcome.INCONCLUSIVE, few, f"{n} and {m} predictions were counted")
    if not m or 2 * distance.named(theirs) < m:
        # Nothing is like what has no name, or unlike it. Routers of an older image do not count it at all.
        seen = m or min(candidate.requests - candidate.failed, stable.requests - stable.failed)
        text = (
            "routers could not tell one prediction from another: the model's first output is no class, number or "
            "label for each row. Scores that do not sum to 1 count as classes with spec.transform.output.classification"
        )
        return Check(name, Outcome.INCONCLUSIVE, text, text) if seen >= least else waiting
    found = distance.between(mine, theirs)
    if found is None:
        return waiting
    text = f"predictions are {found.estimate:.2g} away from the stable version's (at most {allowed:g} may be)"
    text = f"{text}, by {n} and {m} of them"
    # However few they are: what is certain is certain.
    if found.surely > allowed:
        return Check(name, Outcome.FAIL, text, text)
    if min(n, m) < least:
        return Check(name, Outcome.INCONCLUSIVE, few, text)
    if found.estimate + found.chance <= allowed:
        return Check(name, Outcome.PASS, text, text)
    if found.estimate <= allowed:
        told = "predictions are near enough as far as can be seen, and chance may hide a difference; more requests tell"
        return Check(name, Outcome.INCONCLUSIVE, told, text)
    return Check(name, Outcome.INCONCLUSIVE, "predictions differ by more than they may, and that may be chance", text)


def _query(query: Query, answer: Answer, n: int, least: int) -> Check:
    """Nobody knows how far the answer is chance; of fewer than `least` requests it is taken to be nothing else."""
    name, told = query.name, f"query {query.name}"
    if answer.problem:
        text = f"{told}: {answer.problem}"
        return Check(name, Outcome.INCONCLUSIVE, text, text)
    bounds = {"min": query.min, "max": query.max}
    said = ", ".join(f"{bound} {value:g}" for bound, value in bounds.items() if value is not None)
    nothing = f"{told}: there is nothing that it measures"
    text = f"{told}: {answer.value:g} ({said})" if answer.value is not None else nothing
    if n < least:
        return Check(name, Outcome.INCONCLUSIVE, _few(n, least), text)
    if answer.value is None:
        return Check(name, Outcome.INCONCLUSIVE, text, text)
    low = query.min if query.min is not None else -math.inf
    high = query.max if query.max is not None else math.inf
    return Check(name, Outcome.PASS if low <= answer.value <= high else Outcome.FAIL, text, text)


def _within(name: str, percent: int, bound: float, surely: float | None, candidate: Count, least: int) -> Check:
    """Whether this percent of the requests were answered within `bound`, in seconds; it fails only by `surely`, and not
    at all where that is not known."""
    n, allowed = candidate.timed, 1 - percent / 100
    text = f"{_took(percent, candidate)} ({name}: {_time(bound)})"
    # The first few may be slow for reasons of their own: connections, caches.
    if n >= least and surely is not None and chance.too_many(candidate.slower(surely), n, allowed):
        return Check(name, Outcome.FAIL, text, text)
    outcome, message = _held(candidate.slower(bound), n, allowed, least, text)
    if outcome == Outcome.FAIL:
        # More than `bound` allows and less than `surely` does, or too few to say.
        outcome, message = Outcome.INCONCLUSIVE, _few(n, least) if n < least else f"{name}: {CHANCE}"
    return Check(name, outcome, message, text)


def _took(percent: int, count: Count) -> str:
    if not count.timed:
        return "there was no request"
    return f"p{percent} is {_time(count.percentile(percent))} over {count.timed} requests"


def _held(bad: int, n: int, allowed: float, least: int, text: str) -> tuple[Outcome, str]:
    if chance.too_many(bad, n, allowed):
        return Outcome.FAIL, text
    if n < least:
        return Outcome.INCONCLUSIVE, _few(n, least)
    if bad <= n * allowed:
        return Outcome.PASS, text
    return Outcome.INCONCLUSIVE, CHANCE


def _few(n: int, least: int) -> str:
    """In round numbers: it is said in statuses, and must not be news with each request."""
    about = n // 10 ** (len(str(n)) - 1) * 10 ** (len(str(n)) - 1)
    return f"{'about ' if about else ''}{about} of at least {least} requests were answered"


def _percent(k: int, n: int) -> str:
    return f"{100 * k / n:.3g} %" if n else "0 %"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"

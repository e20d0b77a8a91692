"""What was counted of a candidate in one stage, held against what must hold of it.

Three answers: it holds, it does not, or nothing can be concluded. Whatever may still be chance is not concluded: a step
waits, and is neither passed nor rolled back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rayfleet_operator.api.rollout import Analysis, Latency
from rayfleet_operator.plan import chance
from rayfleet_serving.config import WINDOW_BUCKETS, WindowCount, latency_bound

STABLE_SIGMAS = 3.0
"""By how many standard deviations of its rank the stable version's percentile is taken too high before the candidate is
found slower than it: that percentile, too, is only estimated."""


CHANCE = "more bad requests than may be, and that may be chance"


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

    @classmethod
    def of(cls, counts: Iterable[WindowCount]) -> Count:
        """The sum of what each router counted."""
        requests = failed = 0
        latency: Counter[int] = Counter()
        for each in counts:
            requests += each.requests
            failed += each.failed
            latency.update({bucket: number for bucket, number in each.latency.items() if 0 <= bucket < WINDOW_BUCKETS})
        return cls(requests, min(failed, requests), dict(sorted(latency.items())))

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
    """As in the spec: errorRate, latency.max, latency.maxRatioToStable."""
    outcome: Outcome
    message: str
    """With the numbers."""


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def message(self) -> str:
        """The checks that decided."""
        return "; ".join(check.message for check in self.checks if check.outcome == self.outcome)


def judge(analysis: Analysis, candidate: Count, stable: Count) -> Verdict:
    """Hold what was counted against the spec.

    Args:
        candidate: in the stage's window.
        stable: in the same window.
    """
    checks = []
    if analysis.error_rate is not None:
        checks.append(_errors(analysis.error_rate.max_share, analysis.error_rate.max, candidate, analysis.min_requests))
    if analysis.latency is not None:
        checks += _latency(analysis.latency, candidate, stable, analysis.min_requests)
    outcomes = {check.outcome for check in checks}
    # One that does not hold decides, whatever is not known of the others.
    outcome = next((each for each in (Outcome.FAIL, Outcome.INCONCLUSIVE) if each in outcomes), Outcome.PASS)
    return Verdict(outcome, tuple(checks))


def _errors(allowed: float, shown: str, candidate: Count, least: int) -> Check:
    n, failed = candidate.requests, candidate.failed
    share = f"{failed} of {n} requests failed ({_percent(failed, n)}, at most {shown} may)"
    return Check("errorRate", *_held(failed, n, allowed, least, share))


def _latency(latency: Latency, candidate: Count, stable: Count, least: int) -> list[Check]:
    checks = []
    if latency.max_seconds is not None:
        checks.append(
            _within("latency.max", latency.percentile, latency.max_seconds, latency.max_seconds, candidate, least)
        )
    if (ratio := latency.max_ratio_to_stable) is not None:
        name = "latency.maxRatioToStable"
        if stable.timed < least:
            checks.append(Check(name, Outcome.INCONCLUSIVE, f"of the stable version, {_few(stable.timed, least)}"))
        else:
            bound = ratio * stable.percentile(latency.percentile)
            surest = stable.at_most(latency.percentile, STABLE_SIGMAS)
            surely = ratio * surest if surest is not None else None
            checks.append(_within(name, latency.percentile, bound, surely, candidate, least))
    return checks


def _within(name: str, percent: int, bound: float, surely: float | None, candidate: Count, least: int) -> Check:
    """Whether this percent of the requests were answered within `bound`, in seconds; it fails only by `surely`, and not
    at all where that is not known."""
    n, allowed = candidate.timed, 1 - percent / 100
    took = f"p{percent} is {_time(candidate.percentile(percent))}" if n else "there was no request"
    text = f"{took} over {n} requests ({name}: {_time(bound)})"
    # The first few may be slow for reasons of their own: connections, caches.
    if n >= least and surely is not None and chance.too_many(candidate.slower(surely), n, allowed):
        return Check(name, Outcome.FAIL, text)
    outcome, message = _held(candidate.slower(bound), n, allowed, least, text)
    if outcome == Outcome.FAIL:
        # More than `bound` allows and less than `surely` does, or too few to say.
        outcome, message = Outcome.INCONCLUSIVE, _few(n, least) if n < least else f"{name}: {CHANCE}"
    return Check(name, outcome, message)


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

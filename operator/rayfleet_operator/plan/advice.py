"""What a valid spec asks for and can hardly get."""

from __future__ import annotations

from collections.abc import Iterator

from rayfleet_operator.api.rollout import Analysis
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import chance, distance

TIMES = 5
"""A version with so many times the bad requests that are allowed should not pass a step by luck."""
LUCK = 0.05
"""How rarely it may."""
MOST = 1_000_000


def of(model: ModelDeployment) -> Iterator[str]:
    """What a person should know before it happens, a line each; each begins with the field."""
    analysis = model.spec.rollout.analysis
    if analysis is None:
        return
    asked: list[tuple[float, str]] = []
    if analysis.error_rate is not None:
        asked.append((analysis.error_rate.max_share, "fail"))
    if analysis.latency is not None:
        asked.append((1 - analysis.latency.percentile / 100, "are too slow"))
    yield from _predictions(analysis)
    for allowed, bad in asked:
        share = min(TIMES * allowed, 1.0)
        if not 0 < allowed < share:
            continue
        luck = passes(analysis.min_requests, share, allowed)
        if luck > LUCK:
            yield (
                f"spec.rollout.analysis.minRequests: {analysis.min_requests} requests hardly tell {_percent(allowed)} "
                f"from {_percent(share)}: a version of whose requests {_percent(share)} {bad} passes a step in "
                f"{100 * luck:.0f} of 100 cases; with {enough(share, allowed)} it does in fewer than {100 * LUCK:.0f}"
            )


def _predictions(analysis: Analysis) -> Iterator[str]:
    if analysis.predictions is None:
        return
    most = analysis.predictions.max_distance
    if analysis.min_requests < (needed := distance.requests_needed(most)):
        yield (
            f"spec.rollout.analysis.minRequests: {analysis.min_requests} predictions hardly tell a distance of "
            f"{most:g} from one of {2 * most:g}; with {needed} they do in 95 of 100 cases"
        )


def passes(n: int, share: float, allowed: float) -> float:
    """How likely a version with this share of bad requests has no more of them among `n` than are allowed."""
    return 1.0 - chance.at_least(min(n, int(n * allowed + 1e-9) + 1), n, share)


def enough(share: float, allowed: float) -> int:
    """The least `minRequests`, in steps that people would write, with which it hardly ever does."""
    n = 10
    while n < MOST and passes(n, share, allowed) > LUCK:
        n += max(10, 10 ** (len(str(n)) - 2))
    return n


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

"""How far two versions' predictions lie apart, from what routers counted of each.

The distance is the total variation of the two distributions, half the sum of |p - q| over all groups: 0 where both
predict everything equally often, 1 where they have no prediction in common. It is the largest difference in how often
any set of predictions occurs, so "0.2" means: something is predicted by one of them 20 percentage points more often.

Two samples of one distribution have a distance, too. What is to be expected of chance is taken off: of each group, how
far its two shares would lie apart if its members had been dealt out to both samples by chance (the mean absolute
deviation of a binomial distribution). So a group that was seen once tells nothing, and one that is seen with one
version alone, again and again, nearly all. A distance is certain only beyond what McDiarmid's inequality leaves: one
request of `n` moves it by at most 1/n, so it exceeds its mean by t with a probability of at most
exp(-2 t² / (1/n + 1/m)).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rayfleet_operator.plan.chance import ALPHA
from rayfleet_serving.config import NAMELESS, number_bucket

GROUPS = 10
"""Numbers are put together into so many groups of about equal size; more of them would be more noise."""
_WHOLE = re.compile(r"=-?[0-9]{1,9}")


@dataclass(frozen=True)
class Distance:
    """Of `n` predictions from `m` others."""

    estimate: float
    """From 0 to 1, without what chance alone would bring."""
    surely: float
    """What the distance exceeds but in one case of 1 / `chance.ALPHA`; below 0 where nothing is certain."""
    chance: float
    """What chance alone brings, from 0 to 1: less than that, spread over many groups, would hardly be seen."""


def between(one: Mapping[str, int], other: Mapping[str, int]) -> Distance | None:
    """Counts by `router.decisions.key`. None where one of them has none."""
    if _floats(one) or _floats(other):
        # The same model may answer whole numbers in one version and floats in the other.
        one, other = _as_numbers(one), _as_numbers(other)
    n, m = sum(one.values()), sum(other.values())
    if n == 0 or m == 0:
        return None
    groups = _groups(Counter(one) + Counter(other))
    ones, others = _sums(one, groups), _sums(other, groups)
    apart = noise = 0.0
    for group in set(groups.values()):
        members = ones[group] + others[group]
        apart += abs(ones[group] / n - others[group] / m) / 2
        # Both samples keep their sizes, so of a group that nearly everything belongs to, hardly anything is chance: the
        # factor by which a hypergeometric distribution is narrower than the binomial one.
        narrower = math.sqrt(1 - members / (n + m))
        noise += _deviation(members, n / (n + m)) * narrower * (1 / n + 1 / m) / 2
    slack = math.sqrt(math.log(1 / ALPHA) / 2 * (1 / n + 1 / m))
    return Distance(max(0.0, apart - noise), apart - noise - slack, noise)


def named(counts: Mapping[str, int]) -> int:
    """How many of them can be told apart: those of `NAMELESS` may be anything."""
    return sum(counts.values()) - counts.get(NAMELESS, 0)


def requests_needed(most: float) -> int:
    """Requests of each version with which one that is twice as far away as it may be hardly ever looks near enough
    (Hoeffding: exp(-2 n most²) is 5 %)."""
    return math.ceil(math.log(20) / (2 * most * most))


def _floats(counts: Mapping[str, int]) -> bool:
    """Whether they are of a version that answers floats: one with many classes answers small whole numbers as well."""
    return any(key.startswith("~") for key in counts) and not any(key.startswith("=") for key in counts)


def _as_numbers(counts: Mapping[str, int]) -> Counter[str]:
    """With small whole numbers under the keys that they have as floats."""
    sums: Counter[str] = Counter()
    for key, count in counts.items():
        sums[f"~{number_bucket(int(key[1:]))}" if _WHOLE.fullmatch(key) else key] += count
    return sums


def _sums(counts: Mapping[str, int], groups: Mapping[str, str]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for key, count in counts.items():
        sums[groups[key]] += count
    return sums


def _deviation(trials: int, share: float) -> float:
    """Mean of |k - trials * share| for a binomial k: 2 c (1 - share) P(k = c) for c = floor(trials * share) + 1, see
    Diaconis and Zabell, Closed Form Summation for Classical Distributions, 1991."""
    c = math.floor(trials * share) + 1
    if trials == 0 or share >= 1 or c > trials:
        return 0.0
    log = math.lgamma(trials + 1) - math.lgamma(c + 1) - math.lgamma(trials - c + 1)
    log += c * math.log(share) + (trials - c) * math.log1p(-share)
    return 2 * c * (1 - share) * math.exp(log)


def _groups(pooled: Counter[str]) -> dict[str, str]:
    """The group of each key: classes are their own, and numbers are put together with their neighbours. It follows from
    both samples together, so it takes no side."""
    numbers = {key: int(key[1:]) for key in pooled if key.startswith("~")}
    groups = {key: key for key in pooled if key not in numbers}
    total, seen = sum(pooled[key] for key in numbers), 0
    for key in sorted(numbers, key=lambda key: numbers[key]):
        middle = seen + pooled[key] / 2
        groups[key] = f"~{int(GROUPS * middle / total)}"
        seen += pooled[key]
    return groups

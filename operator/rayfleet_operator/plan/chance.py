"""Whether what was counted can be chance.

Both questions of an analysis are one: of `n` requests `k` were bad (failed, or slower than a bound), and a share `p` of
bad ones is allowed. The answer is the exact binomial tail, P(X >= k) for X ~ Bin(n, p).
"""

from __future__ import annotations

import math

ALPHA = 1e-4
"""How rarely a version that is just allowed may be found bad at one look. A step is looked at hundreds of times, and
looks that follow each other see mostly the same requests, so this is far below the usual 5 %."""

_NEGLIGIBLE = 1e-18


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Bin(n, p). Raises ValueError unless 0 <= k <= n and 0 <= p <= 1."""
    if not (0 <= k <= n and 0 <= p <= 1):
        raise ValueError(f"no such tail: k={k}, n={n}, p={p}")
    if k == 0 or p == 1:
        return 1.0
    if p == 0:
        return 0.0
    if k <= n * p:
        # The shorter way round; beyond the mean terms only fall.
        return 1.0 - _sum_down(k - 1, n, p)
    return _sum_up(k, n, p)


def _log_pmf(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def _sum_up(k: int, n: int, p: float) -> float:
    """P(X >= k) for k above the mean."""
    term = math.exp(_log_pmf(k, n, p))
    total, odds = 0.0, p / (1 - p)
    while k <= n and term > _NEGLIGIBLE * total:
        total += term
        term *= (n - k) / (k + 1) * odds
        k += 1
    return min(total, 1.0)


def _sum_down(k: int, n: int, p: float) -> float:
    """P(X <= k) for k below the mean."""
    term = math.exp(_log_pmf(k, n, p))
    total, odds = 0.0, (1 - p) / p
    while k >= 0 and term > _NEGLIGIBLE * total:
        total += term
        term *= k / (n - k + 1) * odds
        k -= 1
    return min(total, 1.0)


def too_many(k: int, n: int, p: float) -> bool:
    """Whether `k` bad ones of `n` are more than a share `p` can explain."""
    return k > n * p and at_least(k, n, p) < ALPHA


def requests_needed(share: float, allowed: float) -> int:
    """Requests after which a version with this share of bad ones is found out in 19 cases of 20, where `allowed` may
    be bad. Raises ValueError unless 0 <= allowed < share <= 1."""
    if not 0 <= allowed < share <= 1:
        raise ValueError(f"{share} is not more than {allowed}")
    low, high = 1, 2
    while not _found_out(high, share, allowed):
        low, high = high, high * 2
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if _found_out(middle, share, allowed) else (middle, high)
    return high


def _found_out(n: int, share: float, allowed: float) -> bool:
    low, high = 0, n + 1  # the least count that is too many lies in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_many(middle, n, allowed) else (middle, high)
    return high <= n and at_least(high, n, share) >= 0.95

"""The delay before a retry, per row of the matrix. Pure: the randomiser is an argument."""

from __future__ import annotations

from collections.abc import Callable

from resilience.errors.taxonomy import Growth, Row, Strategy

IMMEDIATE_STEP_S = 0.1
FIRST_S = 1.0
CAP_S = 60.0
HINT_CAP_S = 3600.0


def delay_s(row: Row, retries: int, hint_s: float | None, random: Callable[[], float]) -> float:
    """Seconds before retry number `retries` + 1 (0-based count of retries so far).

    A server's hint wins and is not undercut, up to an hour: what says more is a mistake or an attack.
    Immediate retries wait 0, 0.1, 0.2 s; backoff 1, 2, 4, 8, 16 s
    (linear: 1, 2, 3 s), each plus up to a quarter of jitter so that a herd spreads out.
    """
    if hint_s is not None:
        return min(hint_s, HINT_CAP_S) * (1.0 + 0.1 * random())
    if row.strategy is Strategy.IMMEDIATE_RETRY:
        return IMMEDIATE_STEP_S * retries
    match row.growth:
        case Growth.NONE:
            return 0.0
        case Growth.LINEAR:
            base = FIRST_S * (retries + 1)
        case Growth.EXPONENTIAL:
            base = FIRST_S * 2.0 ** min(retries, 16)
    return float(min(base, CAP_S) * (1.0 + 0.25 * random()))

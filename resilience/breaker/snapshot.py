"""What operators see of a circuit: the store's raw fields as plain values, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience.breaker.machine import FORCED, State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import Ring, Tally, last_calls


def snapshot_of(fields: Mapping[str, str], now_ms: int, policy: BreakerPolicy) -> dict[str, Any]:
    """state, epoch, calls of the window by how they ended, and why and since when it is so. Times in seconds.

    `probe_in_s`: until an open circuit may be probed. `forced_for_s`: until a forced state ends, None without end.
    `ramp_s`: until a closed circuit lets all traffic pass again. `opens`: openings in a row.
    """
    state = fields.get("state", State.CLOSED.value)
    until_ms = int(fields.get("until", 0))
    changed_ms = int(fields.get("changed", 0))
    left_ms = max(0, until_ms - max(now_ms, changed_ms))  # changed later than now: the clock was set back
    left_s = round(left_ms / 1000, 1)
    seen = _tally(fields, now_ms, policy)
    return {
        "state": state,
        "epoch": int(fields.get("epoch", 1)),
        "calls": seen.calls,
        "failures": seen.failures,
        "failure_ratio": round(seen.failures / seen.calls, 3) if seen.calls else 0.0,
        "rate_limited": seen.limited,
        "slow": seen.slow,
        "streak": int(fields.get("streak", 0)),
        "opens": 0 if state == State.CLOSED.value and not left_ms else int(fields.get("opens", 0)),
        "probe_in_s": left_s if state == State.OPEN.value else 0.0,
        "ramp_s": left_s if state == State.CLOSED.value else 0.0,
        "forced_for_s": left_s if state in {forced.value for forced in FORCED} and until_ms else None,
        "probes": int(fields.get("held", 0)),
        "probes_passed": int(fields.get("passed", 0)),
        "reason": fields.get("reason", ""),
        "changed_s_ago": round(max(0, now_ms - changed_ms) / 1000, 1) if changed_ms else None,
    }


def _tally(fields: Mapping[str, str], now_ms: int, policy: BreakerPolicy) -> Tally:
    if "calls" in fields:
        return last_calls(fields["calls"])
    ring = Ring.read(fields.get("window", ""))
    return ring.add(now_ms, policy.window_ms, Tally()).total()  # what is older than the window is forgotten

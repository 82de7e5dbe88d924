"""What operators see of a circuit: the store's raw fields as plain values, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience.breaker import machine
from resilience.breaker.machine import State, Window
from resilience.breaker.policy import BreakerPolicy


def snapshot_of(fields: Mapping[str, str], now_ms: int, policy: BreakerPolicy) -> dict[str, Any]:
    """state, epoch, calls and failures in the window, and why and since when it is so. Times in seconds."""
    numbers = [int(n) for n in fields.get("window", "").split()]
    window = Window(numbers[0], tuple(numbers[1::2]), tuple(numbers[2::2])) if numbers else Window()
    window = window.add(machine.bucket_of(now_ms, policy), 0, 0)  # what is older than the window is forgotten
    successes, failures = sum(window.successes), sum(window.failures)
    calls = successes + failures
    return {
        "state": fields.get("state", State.CLOSED.value),
        "epoch": int(fields.get("epoch", 1)),
        "calls": calls,
        "failures": failures,
        "failure_ratio": round(failures / calls, 3) if calls else 0.0,
        "streak": int(fields.get("streak", 0)),
        "opens": int(fields.get("opens", 0)),
        "probe_in_s": round(max(0, int(fields.get("until", 0)) - now_ms) / 1000, 1),
        "probes": int(fields.get("held", 0)),
        "reason": fields.get("reason", ""),
        "changed_s_ago": round((now_ms - int(fields["changed"])) / 1000, 1) if "changed" in fields else None,
    }

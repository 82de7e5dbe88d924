"""What workers own on a broker, for tests that ask from outside."""

from __future__ import annotations

import redis


def windows(broker: redis.Redis) -> list[int]:
    """How many messages each worker holds that holds any."""
    counts = [sum(name.isdigit() for name in broker.hkeys(key)) for key in broker.keys("*:claims:*")]
    return [count for count in counts if count]


def claimed(broker: redis.Redis) -> int:
    """How many messages some worker holds."""
    return sum(windows(broker))

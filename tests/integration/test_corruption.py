"""Thousands of spoilt messages, generated first and fed in batches: each runs or is quarantined, no worker ends."""

from __future__ import annotations

import os
import random

import pytest
import redis

from resilience.quarantine.desk import Quarantine
from resilience.testing import until
from tests.integration.conftest import StartWorkers
from tests.integration.corruption import sound, spoilt
from tests.integration.test_quarantine import app, claimed, lay, quarantine, ward

__all__ = ["app", "quarantine", "ward"]  # fixtures

COUNT = int(os.environ.get("CELERIAC_CORRUPTED", "1500"))
BATCH, GOOD = 250, 10_000_000


@pytest.mark.timeout(120 + COUNT // 10)
def test_every_spoilt_message_runs_or_is_quarantined_and_good_ones_between_them_run(
    quarantine: Quarantine, broker: redis.Redis, book: redis.Redis, ward: StartWorkers
) -> None:
    inputs = list(spoilt(seed=4, count=COUNT))
    worker = ward(env={"RESILIENCE_QUARANTINE_MAX": str(2 * COUNT)})
    chance, fed, good = random.Random(5), 0, 0
    for first in range(0, COUNT, BATCH):
        batch = inputs[first : first + BATCH]
        for raw in batch:
            lay(broker, raw)
        lay(broker, sound(chance, GOOD + first))
        fed, good = fed + len(batch), good + 1
        until(lambda fed=fed, good=good: _settled(quarantine, book) >= fed + good, 60, f"{fed} spoilt messages settled")
    ran = book.lrange("ran", 0, -1)
    assert sum(1 for number in ran if number.isdigit() and int(number) >= GOOD) == good, "the good ones between them"
    assert _settled(quarantine, book) == fed + good, "each was either run or quarantined, and once"
    until(lambda: broker.llen("celery") == 0 and not claimed(broker), what="nothing is left in anybody's hands")
    assert worker.log().count(" ready.") == 1
    assert "Unrecoverable error" not in worker.log()
    assert "Restoring" not in worker.log()


def _settled(quarantine: Quarantine, book: redis.Redis) -> int:
    return quarantine.count()["messages"] + int(book.llen("ran"))

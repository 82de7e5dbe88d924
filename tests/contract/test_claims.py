"""A dead worker's claims on a real Redis: all go back to the front of their queues, in their old order, in one step."""

from __future__ import annotations

from resilience.delivery.broker import Broker
from resilience.delivery.claims import Claims
from resilience.delivery.held import Held
from resilience.delivery.waits import WAITED

CLAIMED = 300


def test_hundreds_of_claims_and_what_moved_while_it_waited_go_back_in_one_step(broker: Broker) -> None:
    """In two steps a live worker could take the younger half before the older one is there."""
    client, dead = broker.client, Held("celeriac", "dead")
    client.lpush("q", "next")
    client.rpush(dead.wait_key("q"), f"m{CLAIMED}")
    rows = {str(1_000 + number): f"1:qm{number}" for number in range(CLAIMED)}
    client.hset(dead.claims_key, mapping={f"{WAITED}q": "1", **rows})
    before = _scripts_run(broker)
    assert Claims(broker).give_back(dead) == CLAIMED + 1
    assert _scripts_run(broker) == before + 1
    lies = [text.decode() for text in reversed(client.lrange("q", 0, -1))]
    assert lies == [*(f"m{number}" for number in range(CLAIMED + 1)), "next"]


def _scripts_run(broker: Broker) -> int:
    stats = broker.client.info("commandstats")
    return int(
        stats.get("cmdstat_evalsha", {}).get("calls", 0) - stats.get("cmdstat_evalsha", {}).get("failed_calls", 0)
    )

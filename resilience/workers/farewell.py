"""The way back to stock Celery: what only this middleware knows goes onto plain queues, where any worker takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilience import lua
from resilience.delivery.claims import Claims
from resilience.delivery.delayed import Delayed
from resilience.delivery.held import Held, alone_key
from resilience.delivery.unacked import Unacked, unacked_key
from resilience.workers.registry import Registry

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker
    from resilience.recovery.parking import Parking
    from resilience.settings import Settings

AT_ONCE = 100


@dataclass(frozen=True)
class Released:
    """How many messages went onto plain queues, by where they were; `alive`: workers that may take them up again.

    `claimed` were held by workers that died, `alone` had killed workers and waited to run while nothing else does.
    """

    parked: int = 0
    delayed: int = 0
    alone: int = 0
    claimed: int = 0
    alive: tuple[str, ...] = ()

    @property
    def moved(self) -> int:
        return self.parked + self.delayed + self.alone + self.claimed


def release(broker: Broker, settings: Settings, parking: Parking, force: bool = False) -> Released:
    """Put everything onto plain queues. With workers alive nothing is done, unless `force`. Safe to repeat."""
    registry = Registry(broker, settings.namespace)
    owners = {worker.owner: worker.hostname for worker in registry.live()}
    owners |= {owner: owner for owner in _owners(broker, settings.namespace) if owner not in owners}
    alive = registry.alive(owners, settings.gone_s, settings.silent_s)
    names = tuple(sorted(owners[owner] for owner in alive))
    if alive and not force:
        return Released(alive=names)
    return Released(
        claimed=sum(_bury(owner, broker, registry, settings.namespace) for owner in sorted(owners.keys() - alive)),
        alone=_free(broker, settings.namespace),
        parked=parking.release_all(broker),
        delayed=Delayed(broker, settings.namespace).release_all(),
        alive=names,
    )


def _owners(broker: Broker, namespace: str) -> set[str]:
    """Everybody who holds something, also those that no worker knows any more."""
    found = set()
    for prefix in (Held(namespace, "").claims_key, unacked_key(namespace, "")):
        start = broker.key(prefix)
        pattern = start.replace("[", "\\[").replace("*", "\\*").replace("?", "\\?") + "*"
        found |= {key.decode().removeprefix(start) for key in broker.client.scan_iter(match=pattern, count=1000)}
    return found


def _bury(owner: str, broker: Broker, registry: Registry, namespace: str) -> int:
    held, claims = Held(namespace, owner), Claims(broker)
    moved = Unacked(broker, namespace).give_back(owner) + claims.give_back(held)
    claims.forget(held)
    registry.remove(owner)
    return moved


def _free(broker: Broker, namespace: str) -> int:
    script = broker.script(lua.source(__package__, "solitary.lua"))
    moved = 0
    while step := int(script(keys=[broker.key(alone_key(namespace))], args=[AT_ONCE])):
        moved += step
    return moved

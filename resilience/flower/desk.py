"""What pages and API ask of the circuits: a report, an order; off the event loop and bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from resilience.breaker.guard import Breakers
from resilience.breaker.orders import Receipt, UnknownCircuitError, carry_out
from resilience.breaker.policy import check_name
from resilience.breaker.store import Order
from resilience.shared_redis import STORE_ERRORS
from signals.redact import describe

# Each question to Redis is bounded by store_timeout_s; this bounds what that cannot, such as a name server.
ANSWER_WITHIN_S = 3.0
_AUDIT_SHOWN = 20

T = TypeVar("T")


class RefusedError(Exception):
    """A request that is answered with one sentence for a person and an HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class Report:
    """All circuits by name, as `Breakers.snapshots` gives them, and the newest operator actions first."""

    circuits: dict[str, dict[str, Any]]
    audit: list[dict[str, str]]


class CircuitDesk:
    """Asks in threads of its own, because Flower's are busy for seconds when the broker is away.

    Its methods raise RefusedError.
    """

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="celeriac-desk")

    async def report(self) -> Report:
        """Everything the page shows; 503 when Redis is away."""

        def ask() -> Report:
            return Report(self._breakers.snapshots(), self._breakers.audit(_AUDIT_SHOWN))

        return await self._answer(
            ask, "Redis does not answer, so the circuits cannot be shown and each process decides for itself"
        )

    async def circuit(self, name: str) -> dict[str, Any]:
        """One circuit; 404 when nobody used it, 503 when Redis is away."""
        return await self._answer(
            lambda: self._known(name), f"Redis does not answer, so circuit {name} cannot be shown"
        )

    async def order(self, name: str, order: Order) -> Receipt:
        """Carry out an operator's order on circuit `name`.

        Refused with 400 for an order that cannot be meant, 404 for `reset` and `auto` of a circuit that nobody
        used, 409 when the circuit left the epoch that the order names, 503 when Redis is away.
        """

        def ask() -> Receipt:
            try:
                check_name(name)
            except ValueError as error:
                raise RefusedError(404, f"{error}.") from None
            try:
                receipt = carry_out(self._breakers, name, order)
            except UnknownCircuitError as error:
                raise RefusedError(404, _as_sentence(str(error))) from None
            except ValueError as error:
                raise RefusedError(400, _as_sentence(str(error))) from None
            if not receipt.done:
                raise RefusedError(409, f"Nothing was changed: {receipt.sentence(time.time())}.")
            return receipt

        return await self._answer(
            ask, f"Redis does not answer, so look again whether {order.action.value} of circuit {name} was done"
        )

    def _known(self, name: str) -> dict[str, Any]:
        try:
            snapshot = self._breakers.snapshot(name)
        except ValueError as error:
            raise RefusedError(404, f"{error}.") from None
        if not snapshot:
            raise RefusedError(404, f"There is no circuit {name}: no worker has used one of that name.")
        return snapshot

    async def _answer(self, ask: Callable[[], T], otherwise: str) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, ask), ANSWER_WITHIN_S)
        except asyncio.TimeoutError:
            raise RefusedError(503, f"{otherwise}: no answer within {ANSWER_WITHIN_S:g} s.") from None
        except STORE_ERRORS as error:
            raise RefusedError(503, f"{otherwise}: {describe(error)}") from error


def _as_sentence(text: str) -> str:
    """For a page: a capital in front, and an end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(("?", ".")) else ".")

"""The JSON API of the circuits, under Flower's rules for its API: a login, or FLOWER_UNAUTHENTICATED_API."""

from __future__ import annotations

import json
from http.client import responses
from typing import Any

from flower.api import BaseApiHandler
from tornado import web

from resilience.breaker.machine import Action
from resilience.breaker.store import Order
from resilience.flower.access import actor_of, demand_write
from resilience.flower.desk import CircuitDesk, RefusedError
from resilience.flower.recent import RecentEvents

_EVENTS_SHOWN = 50


class CircuitApi(BaseApiHandler):
    """Answers JSON; what it refuses is `{"error": sentence}` with the status that says so."""

    desk: CircuitDesk
    recent: RecentEvents

    def initialize(self, desk: CircuitDesk, recent: RecentEvents) -> None:
        self.desk = desk
        self.recent = recent

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def refuse(self, refused: RefusedError) -> None:
        self.set_status(refused.status)
        self.finish({"error": refused.sentence})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What Tornado and Flower's login refuse, in the same shape."""
        error = kwargs.get("exc_info", (None, None))[1]
        message = error.get_message() if isinstance(error, web.HTTPError) else None
        if status_code == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.finish({"error": message or responses.get(status_code, "Unknown")})


class BreakersApi(CircuitApi):
    """`GET /api/breakers`: every circuit by name, the newest operator actions and fleet events."""

    @web.authenticated
    async def get(self) -> None:
        try:
            report = await self.desk.report()
        except RefusedError as refused:
            self.refuse(refused)
            return
        events = [
            {"kind": event.kind, "at": event.at, "hostname": event.hostname, "text": event.text}
            for event in self.recent.newest(_EVENTS_SHOWN)
        ]
        self.finish({"breakers": report.circuits, "audit": report.audit, "events": events})


class BreakerApi(CircuitApi):
    """`GET /api/breakers/<name>`: one circuit. Percent-encode a name that holds a slash."""

    @web.authenticated
    async def get(self, name: str) -> None:
        try:
            self.finish({"name": name, **await self.desk.circuit(name)})
        except RefusedError as refused:
            self.refuse(refused)


class BreakerOrderApi(CircuitApi):
    """`POST /api/breakers/<name>/<action>`; action: reset, force-open, disable, metrics-only or auto.

    Takes `{"reason": text, "epoch": number seen (optional), "ttl_s": seconds (optional, not for reset and auto)}`,
    answers `{"name", "action", "done", "new", "before", ...}` with the circuit's snapshot after it.
    """

    @web.authenticated
    async def post(self, name: str, action: str) -> None:
        try:
            demand_write(self)
            receipt = await self.desk.order(name, _wish(self.request.body, Action(action), actor_of(self)))
        except RefusedError as refused:
            self.refuse(refused)
        else:
            before = receipt.before.get("state")
            answer = {"name": name, "action": action, "done": True, "new": not receipt.before, "before": before}
            self.finish({**answer, **receipt.after})


_RIGHT = '{"reason": "why", "epoch": 3} would be right.'


def _wish(body: bytes, action: Action, actor: str) -> Order:
    """The order in a request's body. Raises RefusedError (400)."""
    try:
        wish = json.loads(body or b"{}")
    except ValueError:
        raise RefusedError(400, f"The body is not JSON: {_RIGHT}") from None
    if not isinstance(wish, dict):
        raise RefusedError(400, f"The body is not a JSON object: {_RIGHT}")
    unknown = sorted(wish.keys() - {"reason", "epoch", "ttl_s"})
    if unknown:
        raise RefusedError(400, f"The body has {unknown[0][:40]!r}, which means nothing here: {_RIGHT}")
    reason, epoch, ttl_s = wish.get("reason", ""), wish.get("epoch"), wish.get("ttl_s")
    if not isinstance(reason, str):
        raise RefusedError(400, "The reason must be a text.")
    if epoch is not None and (not isinstance(epoch, int) or isinstance(epoch, bool)):
        raise RefusedError(400, "The epoch must be the whole number that the circuit showed, or be left out.")
    if ttl_s is not None and (not isinstance(ttl_s, (int, float)) or isinstance(ttl_s, bool)):
        raise RefusedError(400, "The ttl_s must be a number of seconds, or be left out.")
    return Order(action, actor, reason, epoch, ttl_s)

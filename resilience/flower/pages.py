"""The page Breakers: the table of circuits, its live part, and the form for an operator's order."""

from __future__ import annotations

import time
from typing import Any

from flower.views import BaseHandler
from tornado import web

from resilience.audit import REASON_LENGTH
from resilience.breaker.machine import Action
from resilience.breaker.store import Order
from resilience.breaker.words import clock, seconds_of
from resilience.flower.access import actor_of, demand_same_origin, demand_write, why_no_writes
from resilience.flower.desk import CircuitDesk, RefusedError
from resilience.flower.loader import OURS
from resilience.flower.recent import RecentEvents
from resilience.flower.rows import audit_line, rows_of, totals
from resilience.settings import Settings

_REFRESH_S = 2
_EVENTS_SHOWN = 20


class CircuitPage(BaseHandler):
    """What the page and its live part share: one report of Redis, put into words."""

    desk: CircuitDesk
    recent: RecentEvents
    settings_of_app: Settings

    def initialize(self, desk: CircuitDesk, recent: RecentEvents, settings_of_app: Settings) -> None:
        self.desk = desk
        self.recent = recent
        self.settings_of_app = settings_of_app

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    async def live(self, draft: dict[str, str] | None = None) -> dict[str, Any]:
        """Everything that the live template shows. `draft` is a form to show again, still open."""
        report = await self.desk.report()
        now_s = time.time()
        rows = rows_of(report.circuits, self._probes_allowed, now_s)
        return {
            "rows": rows,
            "totals": totals(rows),
            "audit": [audit_line(entry, now_s) for entry in report.audit],
            "events": [(clock(event.at, now_s), event) for event in self.recent.newest(_EVENTS_SHOWN)],
            "now": clock(now_s, now_s),
            "writes": why_no_writes(self) is None,
            "draft": draft or {},
            "reason_length": REASON_LENGTH,
        }

    def _probes_allowed(self, name: str) -> int:
        return self.settings_of_app.policy(name).half_open_permits


class BreakersPage(CircuitPage):
    """`/breakers`: the whole page; an order is posted to the same address, so that a reload shows the page."""

    @web.authenticated
    async def get(self) -> None:
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        draft = {name: self.get_body_argument(name, "") for name in ("name", "action", "reason", "ttl", "epoch")}
        try:
            demand_write(self)
            demand_same_origin(self)
            receipt = await self.desk.order(draft["name"], _order(draft, actor_of(self)))
        except RefusedError as refused:
            self.set_status(refused.status)
            await self._show(draft=draft, refusal=refused.sentence)
        else:
            now_s = time.time()
            await self._show(done=f"Done at {clock(now_s, now_s)}: {receipt.sentence(now_s)}.")

    async def _show(self, draft: dict[str, str] | None = None, refusal: str = "", done: str = "") -> None:
        trouble, live = "", None
        try:
            live = await self.live(draft)
        except RefusedError as refused:
            self.set_status(refused.status)
            trouble = refused.sentence
        self.render(
            OURS + "breakers.html",
            **(live or {}),
            has_live=live is not None,
            trouble=trouble,
            refusal="" if refusal == trouble else refusal,
            done=done,
            why_no_writes=why_no_writes(self),
            refresh_s=_REFRESH_S if self.application.options.auto_refresh else 0,
        )


class LiveBreakers(CircuitPage):
    """`/breakers/live`: the part of the page that changes, for the browser's refresh.

    A page handler and not the API, which Flower closes where no login is configured; rendered here and not in
    the browser, so that there is one place that escapes and one that chooses the words.
    """

    @web.authenticated
    async def get(self) -> None:
        try:
            live = await self.live()
        except RefusedError as refused:
            self.set_status(refused.status)
            self.set_header("Content-Type", "text/plain; charset=UTF-8")
            self.finish(refused.sentence)
        else:
            self.render(OURS + "breakers_live.html", **live)


def _order(draft: dict[str, str], actor: str) -> Order:
    """The order in a posted form. Raises RefusedError (400)."""
    epoch = _seen_epoch(draft["epoch"])
    try:
        action = Action(draft["action"])
    except ValueError:
        raise RefusedError(400, "Say what to do with the circuit: choose one of the list.") from None
    try:
        ttl_s = seconds_of(draft["ttl"]) if draft["ttl"].strip() else None
    except ValueError as error:
        raise RefusedError(400, f"{error}.") from None
    return Order(action, actor, draft["reason"], epoch, ttl_s)


def _seen_epoch(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise RefusedError(400, "The form does not say which epoch you saw: load the page again.")
    return int(text)

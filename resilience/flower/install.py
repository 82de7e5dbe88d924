"""Puts our routes, templates and event memory into Flower, before Flower's application is built."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from flower import urls
from flower.events import EventsState
from tornado.web import StaticFileHandler, url

from resilience.breaker.machine import Action
from resilience.flower.api import BreakerApi, BreakerOrderApi, BreakersApi
from resilience.flower.desk import CircuitDesk
from resilience.flower.loader import PageLoader
from resilience.flower.pages import BreakersPage, LiveBreakers
from resilience.flower.recent import RecentEvents
from resilience.middleware import Resilience

_STATIC = Path(__file__).parent / "static"
_ACTIONS = "|".join(action.value for action in Action)


def install(resilience: Resilience) -> None:
    """Add the pages for `resilience` to this process's Flower. A second call does nothing.

    Raises UnsupportedFlowerError, SettingsError.
    """
    if any(getattr(handler, "name", None) == "breakers" for handler in urls.handlers):
        return
    urls.settings["template_loader"] = PageLoader(urls.settings["template_path"])
    recent = RecentEvents()
    api: dict[str, Any] = {"desk": CircuitDesk(resilience.breakers), "recent": recent}
    page = {**api, "settings_of_app": resilience.settings}
    # Always `url`: --url_prefix rewrites plain tuples and drops their arguments. Before the last one, which
    # is the catch-all; in place, because Flower's application imports this very list.
    urls.handlers[-1:-1] = [
        url(r"/breakers", BreakersPage, page, name="breakers"),
        url(r"/breakers/live", LiveBreakers, page, name="breakers-live"),
        url(r"/breakers/static/(.*)", StaticFileHandler, {"path": str(_STATIC)}, name="breakers-static"),
        url(r"/api/breakers", BreakersApi, api),
        url(rf"/api/breakers/(.+)/({_ACTIONS})", BreakerOrderApi, api),
        url(r"/api/breakers/(.+)", BreakerApi, api),
    ]
    _remember_events(recent)


def _remember_events(recent: RecentEvents) -> None:
    """Flower makes its event state itself and keeps no other door open than the class."""
    count_event = EventsState.event

    @functools.wraps(count_event)
    def event(self: Any, event: dict[str, Any]) -> Any:
        recent.see(event)
        return count_event(self, event)

    EventsState.event = event

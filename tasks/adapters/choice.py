"""Which adapter answers on which level of a task's journey, configured by this process's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache

from resilience.services import Service
from tasks.adapters import ChatAdapter
from tasks.adapters.api import Api
from tasks.adapters.offline import Offline
from tasks.chat_client import PRIMARY, SECONDARY, ChatApi, ChatConfigError

HOME, FALLBACK = 0, 1
"""Levels: at home the primary API is asked, on the fallback queue the secondary one; below is the offline reply."""


def adapter_at(level: int) -> ChatAdapter:
    """The adapter of a level. Raises ChatConfigError when the primary API, or one that is named, is set up wrongly.

    Where no secondary API is configured, its level answers offline at once: one more hop would tell nothing new.
    """
    if level <= HOME:
        return _api(PRIMARY, ChatApi.from_environment(PRIMARY))
    if level == FALLBACK and os.environ.get(f"{SECONDARY}API_URL", "").strip():
        return _api(SECONDARY, ChatApi.from_environment(SECONDARY))
    return Offline()


def services(environ: Mapping[str, str] | None = None) -> list[Service]:
    """The APIs in order of preference, for whoever wants to know which is there: see `resilience.Services`."""
    return [_service(prefix, environ) for prefix in (PRIMARY, SECONDARY)]


def _service(prefix: str, environ: Mapping[str, str] | None) -> Service:
    try:
        return Api(prefix, ChatApi.from_environment(prefix, environ)).service
    except ChatConfigError as error:
        name = "primary" if prefix == PRIMARY else "secondary"
        return Service(f"the {name} chat API", None, str(error).rstrip("."))


@lru_cache(maxsize=8)
def _api(prefix: str, api: ChatApi) -> Api:
    """What is known of a service is kept for as long as its configuration stays."""
    return Api(prefix, api)

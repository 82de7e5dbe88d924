"""A chat API over HTTP, looked at before use: one that does not answer its door is not waited for."""

from __future__ import annotations

import httpx

from resilience.probing import listens
from resilience.services import Service, Services
from tasks.adapters import ChatAnswer
from tasks.chat_client import ChatApi, ask, proxy_for

LOOK_S = 1.0
"""How long it may take to open a connection. A call may last much longer, and holds a slot of the pool meanwhile."""


class Api:
    """The API that `prefix` configures: see `ChatApi.from_environment`. One per process and API."""

    def __init__(self, prefix: str, api: ChatApi) -> None:
        self._api = api
        hint = f"start it, or set {prefix}API_URL to another one"
        door = proxy_for(api.base_url) or api.base_url
        self.service = Service(f"the {api.source} chat API at {api.base_url}", listens(door, LOOK_S), hint)
        self._services = Services(self.service, timeout_s=LOOK_S)

    def answer(self, prompt: str, request_id: str) -> ChatAnswer:
        """Raises NoServiceError when nobody opens the door, else what `ask` raises."""
        self._services.detect()
        try:
            answer = ask(self._api, prompt, request_id)
        except httpx.TransportError:
            self._services.doubt(self.service)  # it died after it was looked at: the next task asks first
            raise
        self._services.confirm(self.service)
        return answer

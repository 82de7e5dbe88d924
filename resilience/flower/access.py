"""Who may change a circuit through Flower, and under which name it is written down."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import urlparse

from resilience.flower.desk import RefusedError

NOBODY = "flower"


def why_no_writes(handler: Any) -> str | None:
    """The sentence that says why this Flower changes nothing, or None when it may.

    Without a login Flower skips its check against cross-site requests too, so then every page on the web
    could change a circuit through an operator's browser.
    """
    options = handler.application.options
    if options.read_only:
        return "Changes are off: this Flower was started with --read_only."
    if not (options.basic_auth or options.auth or handler.unauthenticated_api):
        return "Changes are off: this Flower has no login. Start it with --basic-auth=USER:PASSWORD for them."
    return None


def demand_write(handler: Any) -> None:
    """Raise RefusedError (403) unless this Flower may change something."""
    sentence = why_no_writes(handler)
    if sentence is not None:
        raise RefusedError(403, sentence)


def demand_same_origin(handler: Any) -> None:
    """Raise RefusedError (403) for another site's form: without a login Flower lets it through."""
    headers = handler.request.headers
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if (site and site != "same-origin") or (origin and urlparse(origin).netloc != handler.request.host):
        raise RefusedError(403, "Nothing was changed: the form came from another site.")


def actor_of(handler: Any) -> str:
    """The authenticated user: the OAuth address, the basic-auth name, or "flower" when nobody was asked."""
    user = handler.current_user
    if isinstance(user, str):
        return user
    if not handler.application.options.basic_auth:
        return NOBODY
    _, _, credentials = handler.request.headers["Authorization"].partition(" ")
    return b64decode(credentials).decode().partition(":")[0] or NOBODY

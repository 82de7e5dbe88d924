"""One question to an OpenAI-compatible chat endpoint over HTTP: configuration and call."""

from __future__ import annotations

import contextvars
import os
import time
import typing
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import httpcore
import httpx

from resilience import current_patience
from tasks.adapters import ChatAnswer

PRIMARY = "CELERIAC_"
SECONDARY = "CELERIAC_FALLBACK_"
DEFAULT_MODEL = "gpt-4o-mini"
DEFAULT_TIMEOUT_S = 30.0


class ChatConfigError(ValueError):
    """The chat endpoint is configured wrongly or not at all; the message says what would be right."""


class MalformedReply(ValueError):  # noqa: N818 - names what came back, as httpx's own exceptions do
    """The endpoint said 200 but the body is not a chat completion."""


@dataclass(frozen=True)
class ChatApi:
    """Where to ask, with which key and model, and for how long one attempt may last in total."""

    base_url: str
    key: str = field(default="", repr=False)
    model: str = DEFAULT_MODEL
    timeout_s: float = DEFAULT_TIMEOUT_S
    source: str = "primary"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        object.__setattr__(self, "key", _checked_key(self.key))
        if not self.model:
            raise ChatConfigError("The chat model is empty: name one, for example " + DEFAULT_MODEL + ".")
        if not 0 < self.timeout_s < float("inf"):
            raise ChatConfigError(f"The chat timeout is {self.timeout_s} s: it must be a number above 0.")

    @classmethod
    def from_environment(cls, prefix: str = PRIMARY, environ: Mapping[str, str] | None = None) -> ChatApi:
        """Read `<prefix>API_URL`, `_API_KEY`, `_MODEL` and `_API_TIMEOUT_S`; raises ChatConfigError.

        A prefix without a timeout of its own takes that of the primary.
        """
        env = os.environ if environ is None else environ
        url = env.get(f"{prefix}API_URL", "").strip()
        if not url:
            raise ChatConfigError(
                f"No chat endpoint is configured: set {prefix}API_URL, for example https://api.openai.com/v1."
            )
        timeout = env.get(f"{prefix}API_TIMEOUT_S") or env.get(f"{PRIMARY}API_TIMEOUT_S") or DEFAULT_TIMEOUT_S
        try:
            timeout_s = float(timeout)
        except ValueError:
            raise ChatConfigError(
                f"{prefix}API_TIMEOUT_S is {timeout!r}: it must be a number of seconds, for example 30."
            ) from None
        return cls(
            base_url=url,
            key=env.get(f"{prefix}API_KEY", ""),
            model=env.get(f"{prefix}MODEL", "").strip() or DEFAULT_MODEL,
            timeout_s=timeout_s,
            source="primary" if prefix == PRIMARY else "secondary",
        )


def ask(api: ChatApi, prompt: str, request_id: str) -> ChatAnswer:
    """Ask once. `api.timeout_s` bounds the whole attempt, from connecting to the last byte of the body; a task's retry
    after a timeout gets more (see `current_patience`).

    Raises httpx's own exceptions unchanged (`HTTPStatusError` keeps the response and so its Retry-After;
    timeouts; `ConnectError`), and MalformedReply when a 200 is not a chat completion. Resolving the host's
    name is the one step that the operating system does not let us bound.
    """
    headers = {"X-Request-Id": request_id}
    if api.key:
        headers["Authorization"] = f"Bearer {api.key}"
    body = {"model": api.model, "messages": [{"role": "user", "content": prompt}]}
    timeout_s = api.timeout_s * current_patience()
    token = _deadline.set(time.monotonic() + timeout_s)
    try:
        response = _client(api.base_url).post(
            f"{api.base_url}/chat/completions", json=body, headers=headers, timeout=timeout_s
        )
    finally:
        _deadline.reset(token)
    response.raise_for_status()
    text, model = _completion(response)
    return ChatAnswer(text=text, model=model or api.model, source=api.source)


def _completion(response: httpx.Response) -> tuple[str, str]:
    expected = 'a chat completion with a text at "choices[0].message.content"'
    try:
        reply = response.json()
    except ValueError:
        kind = response.headers.get("content-type", "no content type")
        raise MalformedReply(
            f"Malformed reply from {response.url}: expected {expected}, got {len(response.content)} bytes "
            f"that are not JSON ({kind})."
        ) from None
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise MalformedReply(f"Malformed reply from {response.url}: expected {expected}, which it does not have.")
    model = reply.get("model")
    return text, model if isinstance(model, str) else ""


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        raise ChatConfigError("The chat URL cannot be read: expected one like https://host/v1.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ChatConfigError(f"The chat URL {text!r} is not an http or https URL: expected https://host/v1.")
    if url.userinfo:
        raise ChatConfigError("The chat URL carries a password: take it out and set the API key instead.")
    return text.rstrip("/")


def _checked_key(text: str) -> str:
    key = text.strip()
    if not key.isascii() or any(not " " < letter < "\x7f" for letter in key):
        raise ChatConfigError("The API key has characters that no HTTP header may carry: copy it again without blanks.")
    return key


_clients: dict[tuple[int, str], httpx.Client] = {}
_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("chat_deadline")


def _client(base_url: str) -> httpx.Client:
    """This process's client; a forked child makes its own and leaves its parent's sockets untouched."""
    key = (os.getpid(), base_url)
    found = _clients.get(key)
    if found is not None:
        return found
    made = httpx.Client(transport=_DeadlineTransport(proxy_for(base_url)))
    kept = _clients.setdefault(key, made)  # atomic, so no lock that a fork could inherit taken
    if kept is not made:
        made.close()
    return kept


def close_clients() -> None:
    """Close this process's clients: at a worker's shutdown, and between tests."""
    for key in [key for key in _clients if key[0] == os.getpid()]:
        _clients.pop(key).close()


def proxy_for(base_url: str) -> str | None:
    """The proxy that this environment asks to go through, None without one."""
    # httpx reads the proxy variables only for transports that it builds itself.
    url = httpx.URL(base_url)
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(url.host):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


class _DeadlineTransport(httpx.HTTPTransport):
    """httpx bounds each read; a server that trickles one byte per read would hold a worker for ever."""

    def __init__(self, proxy: str | None) -> None:
        super().__init__(proxy=proxy, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100))
        # httpx hands no network backend through; the test with the trickling server fails if this name moves.
        pool = self._pool
        pool._network_backend = _DeadlineBackend(pool._network_backend)  # noqa: SLF001


def _left(timeout: float | None, error: type[Exception]) -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise error("timed out: the attempt used up its time")
    return left if timeout is None else min(timeout, left)


_SocketOptions: typing.TypeAlias = "Iterable[httpcore.SOCKET_OPTION] | None"


class _DeadlineBackend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: _SocketOptions = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.connect_tcp(host, port, left, local_address, socket_options))


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: typing.Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> typing.Any:
        return self._inner.get_extra_info(info)

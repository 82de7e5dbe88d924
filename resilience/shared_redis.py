"""The Redis that the middleware's own state is shared through: a client that waits a bounded time and never retries.

Every call is one round trip, raises one of STORE_ERRORS when Redis is away, and is safe after a fork.
"""

from __future__ import annotations

# A process's first connection imports these two; a fork in the middle of that would lock the child out for ever.
import email.parser  # noqa: F401  for its presence alone
import encodings.idna  # noqa: F401  the same
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from kombu.utils.imports import symbol_by_name
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilience import lua

STORE_ERRORS: tuple[type[Exception], ...] = (redis.RedisError, OSError)


def connect(url: str, timeout_s: float) -> redis.Redis:
    """A client that waits at most `timeout_s` for a reply and never retries by itself, whatever the URL says.

    `credential_provider=package.module.Class` in the URL's query names who knows user and password, as for kombu.
    """
    url, provider = _without_provider(url)
    client = redis.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0), **provider)
    client.connection_pool.connection_kwargs.update(socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    return client


def _without_provider(url: str) -> tuple[str, dict[str, Any]]:
    scheme, netloc, path, query, fragment = urlsplit(url)
    options = parse_qsl(query, keep_blank_values=True)
    named = [value for name, value in options if name == "credential_provider"]
    if not named:
        return url, {}
    rest = urlencode([(name, value) for name, value in options if name != "credential_provider"])
    return urlunsplit((scheme, netloc, path, rest, fragment)), {"credential_provider": symbol_by_name(named[0])()}


class SharedRedis:
    """One client, the prefix of all keys, and the scripts that run on it. Several stores may share one."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client = client
        self.prefix = f"{namespace}:v1"
        self._scripts: dict[str, Any] = {}

    @property
    def timeout_s(self) -> float:
        """How long one call waits at most."""
        return float(self.client.connection_pool.connection_kwargs["socket_timeout"])

    def load(self, package: str, file: str) -> None:
        """Make the script in `file` of `package` callable by that file's name."""
        self._scripts[file] = self.client.register_script(lua.source(package, file))

    def run(self, file: str, keys: list[str], args: list[Any]) -> Any:
        """Run a loaded script: one EVALSHA; one more command when Redis has forgotten it."""
        return self._scripts[file](keys=keys, args=args)

    def run_many(self, file: str, calls: list[tuple[list[str], list[Any]]]) -> list[Any]:
        """Run a loaded script once per pair of keys and arguments: one round trip, or two more if it was forgotten.

        Replies in order. Raises what the first failed one raised.
        """
        script = self._scripts[file]
        replies = self._pipelined(script.sha, calls)
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if forgotten:
            self.client.script_load(script.script)
            again = self._pipelined(script.sha, [calls[i] for i in forgotten])
            for i, reply in zip(forgotten, again, strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _pipelined(self, sha: str, calls: list[tuple[list[str], list[Any]]]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for keys, args in calls:
            pipe.evalsha(sha, len(keys), *keys, *args)
        return pipe.execute(raise_on_error=False)

    def run_all(self, file: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Run a loaded script once for each keys and args, in one round trip, and one that asks if Redis knows it."""
        pipe = self.client.pipeline(transaction=False)
        for keys, args in calls:
            self._scripts[file](keys=keys, args=args, client=pipe)
        return list(pipe.execute())

    def reconnect_in_child(self) -> None:
        """After a fork: connections of the child's own, without touching the inherited pool.

        redis-py resets that pool under its lock, which a thread of the parent may have held at the fork; in the child
        that thread does not exist, and the first command would wait for it for ever. So would the client's own end,
        which closes its pool: it stays, with another one.
        """
        inherited = self.client.connection_pool
        self.client.connection_pool = redis.ConnectionPool(
            inherited.connection_class, inherited.max_connections, **inherited.connection_kwargs
        )

    def close(self) -> None:
        self.client.close()

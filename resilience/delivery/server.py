"""Whether the broker's server can do what the owned transport needs: Redis 6.2 or newer, or Valkey, can."""

from __future__ import annotations

import redis

TOO_OLD = (
    "celeriac: this Redis is older than 6.2 and cannot move a message to its worker in one step, so this worker uses "
    "kombu's own transport, in which a SIGKILL at the wrong instant loses a message: upgrade the server"
)


def moves_messages(client: redis.Redis, key: str) -> bool:
    """Ask by doing: no right to ask for the version is needed. `key` is one of ours that does not exist."""
    try:
        client.lmove(key, key, "RIGHT", "LEFT")
    except redis.ResponseError as error:
        return "unknown command" not in str(error).lower()  # refused for another reason: the turns deal with that
    return True

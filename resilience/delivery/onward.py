"""A message that a worker was given goes to the back of another queue in one atomic step, with other headers.

The step is the worker's next turn (`turn.lua`): whoever is killed when, the message is in one queue or the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.utils.json import dumps

from resilience.delivery.envelope import ENTRY, read


def sent_on(message: Any, queue: str, headers: Mapping[str, Any]) -> bool:
    """Send a delivered message to `queue`; False where only publish and acknowledge can do it: on other transports.

    `headers` are changed in it; its others, its body and its properties stay as they are. The caller acknowledges.
    """
    channel = message.channel
    if not getattr(channel, "owned", False) or not channel.puts_plainly(queue):
        return False
    _, raw = message._raw[ENTRY]  # noqa: SLF001  where kombu keeps the payload
    envelope = readdressed(read(raw), queue)
    envelope["headers"] = {**(envelope.get("headers") or {}), **headers}
    key = channel.key_of(queue, channel._get_message_priority(envelope, reverse=False))  # noqa: SLF001  as kombu puts it
    channel.held.hand_on(message.delivery_tag, str(dumps(envelope)).encode(), key)  # else it is not ours any more
    return True


def readdressed(envelope: dict[str, Any], queue: str) -> dict[str, Any]:
    """The message as if it had been sent to `queue`: retries and requeues go by that address.

    Raises KeyError, TypeError or AttributeError for what is no message.
    """
    envelope["properties"]["delivery_info"].update(exchange="", routing_key=queue)
    return envelope

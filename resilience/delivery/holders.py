"""What this process holds, by its owner: kombu makes the channels, and gives them no more than a name."""

from __future__ import annotations

from resilience.delivery.held import Held

_held: dict[str, Held] = {}


def hold_as(held: Held) -> str:
    """Make `held` known to the channels of this process; returns the transport option that names it."""
    _held[held.owner] = held
    return held.owner


def held_by(owner: str) -> Held | None:
    """What this very process holds as `owner`; None in any other."""
    held = _held.get(owner)
    return held if held is not None and held.is_mine else None

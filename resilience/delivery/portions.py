"""How many messages a worker takes at once if it runs them inside its loop. Pure."""

from __future__ import annotations

PORTION_S = 0.2
"""What is taken at once runs in about this time: until then nobody else has it, and what comes back to the front of the
queue waits behind it."""

_GROWTH = 4
"""After tasks that were shorter than before, so many times as many at most."""


class Portions:
    """As many as ran lately within `PORTION_S`; one as long as nothing has run."""

    def __init__(self) -> None:
        self.most = 1

    def ran(self, tasks: int, took_s: float) -> None:
        """So many tasks, at least one, took so long."""
        fit = PORTION_S * tasks / took_s if took_s > 0 else _GROWTH * self.most
        self.most = max(1, int(min(fit, _GROWTH * self.most)))

"""What a circuit remembers of its calls: a ring of buckets over time, or the last so many calls. Pure.

`circuit.lua` keeps the same two, as text, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

BUCKETS = 12


@dataclass(frozen=True)
class Tally:
    """Calls counted by how they ended. `slow` overlaps the rest: a slow call succeeded, failed or was rate-limited."""

    successes: int = 0
    failures: int = 0
    slow: int = 0
    limited: int = 0

    @property
    def calls(self) -> int:
        return self.successes + self.failures + self.limited

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.successes + other.successes,
            self.failures + other.failures,
            self.slow + other.slow,
            self.limited + other.limited,
        )


@dataclass(frozen=True)
class Ring:
    """A tally per bucket of time. A bucket lasts `width_ms` (0: nothing was counted yet), `head` is the newest one's
    number, time // width."""

    width_ms: int = 0
    head: int = 0
    buckets: tuple[Tally, ...] = (Tally(),) * BUCKETS

    def add(self, now_ms: int, window_ms: int, tally: Tally) -> Ring:
        """The ring with `tally` in the newest bucket; what is older than `window_ms` is forgotten.

        Callers with different windows may take turns, as while a new policy is rolled out: see `_carried`.
        """
        width_ms = width_of(window_ms)
        if not self.width_ms or now_ms // self.width_ms < self.head - BUCKETS:  # new, or the clock went far back
            ring = Ring(width_ms, now_ms // width_ms)
        elif self.width_ms != width_ms:
            ring = self._carried(now_ms, width_ms)
        else:
            ring = self._aged(now_ms)
        buckets = list(ring.buckets)
        buckets[ring.head % BUCKETS] += tally
        return replace(ring, buckets=tuple(buckets))

    def total(self) -> Tally:
        return sum(self.buckets, Tally())

    def _aged(self, now_ms: int) -> Ring:
        buckets = list(self.buckets)
        head = max(now_ms // self.width_ms, self.head)  # time that goes backwards counts into the newest bucket
        for passed in range(self.head + 1, min(head, self.head + BUCKETS) + 1):
            buckets[passed % BUCKETS] = Tally()
        return Ring(self.width_ms, head, tuple(buckets))

    def _carried(self, now_ms: int, width_ms: int) -> Ring:
        """The same calls in buckets of another width, each where the middle of its old bucket belongs.

        By its middle a bucket goes there and back without growing younger, so that two windows in turns both forget.
        The bucket that is still being filled stays, though its middle may lie before the whole of a short window.
        """
        head = now_ms // width_ms
        buckets = [Tally()] * BUCKETS
        for old in range(self.head - BUCKETS + 1, self.head + 1):
            new = min((2 * old + 1) * self.width_ms // (2 * width_ms), head)
            if new <= head - BUCKETS and old == now_ms // self.width_ms:
                new = head
            if new > head - BUCKETS:
                buckets[new % BUCKETS] += self.buckets[old % BUCKETS]
        return Ring(width_ms, head, tuple(buckets))

    @classmethod
    def read(cls, text: str) -> Ring:
        """A ring as the store writes it: width, head, then four numbers per bucket; an empty one for anything else."""
        numbers = [int(word) for word in text.split() if word.isdigit()]
        if len(numbers) != 2 + 4 * BUCKETS or not numbers[0]:
            return cls()
        width_ms, head = numbers[:2]
        return cls(width_ms, head, tuple(Tally(*numbers[at : at + 4]) for at in range(2, len(numbers), 4)))


def width_of(window_ms: int) -> int:
    """How many milliseconds a bucket of this window lasts."""
    return max(1, window_ms // BUCKETS)


SUCCESS, SLOW_SUCCESS = ".", "s"
FAILURE, SLOW_FAILURE = "x", "X"
LIMITED, SLOW_LIMITED = "l", "L"


def last_calls(text: str) -> Tally:
    """The tally of a row of calls, one letter each."""
    count = text.count
    return Tally(
        successes=count(SUCCESS) + count(SLOW_SUCCESS),
        failures=count(FAILURE) + count(SLOW_FAILURE),
        slow=count(SLOW_SUCCESS) + count(SLOW_FAILURE) + count(SLOW_LIMITED),
        limited=count(LIMITED) + count(SLOW_LIMITED),
    )

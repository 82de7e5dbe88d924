"""What a circuit remembers of its calls: a ring of buckets over time, or the last so many calls. Pure.

`circuit.lua` keeps the same two, as text, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """A tally per bucket of time; `head` is the number (time // width) of the newest bucket."""

    head: int = 0
    buckets: tuple[Tally, ...] = (Tally(),) * BUCKETS

    def add(self, bucket: int, tally: Tally) -> Ring:
        """The ring with `tally` in bucket number `bucket`; what is older than the ring is forgotten."""
        if bucket < self.head - BUCKETS:
            # Not a clock that was set back a little: the policy's window changed, and with it the buckets' numbers.
            return Ring(bucket).add(bucket, tally)
        buckets = list(self.buckets)
        head = max(bucket, self.head)  # time that goes backwards counts into the newest bucket
        for passed in range(self.head + 1, min(head, self.head + BUCKETS) + 1):
            buckets[passed % BUCKETS] = Tally()
        buckets[head % BUCKETS] += tally
        return Ring(head, tuple(buckets))

    def total(self) -> Tally:
        return sum(self.buckets, Tally())

    @classmethod
    def read(cls, text: str) -> Ring:
        """A ring as the store writes it: head, then four numbers per bucket; an empty ring for anything else."""
        numbers = [int(word) for word in text.split() if word.isdigit()]
        if len(numbers) != 1 + 4 * BUCKETS:
            return cls()
        return cls(numbers[0], tuple(Tally(*numbers[at : at + 4]) for at in range(1, len(numbers), 4)))


def bucket_of(now_ms: int, window_ms: int) -> int:
    """The number of the ring's bucket that a moment belongs to."""
    return now_ms // max(1, window_ms // BUCKETS)


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

"""Which lines are under way, and which of them were lost on the way. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.prompts import Prompt

_STATE_KNOWN_FACTOR = 4.0  # a task whose state is known (started, retrying) gets this much more patience


@dataclass
class Line:
    """A line that was sent. Times are in seconds of one monotonic clock."""

    prompt: Prompt
    sent_at: float
    order: int  # later sends have higher numbers
    unsent: bool = False  # publishing raised: it goes out again under the same id
    mark: int | None = None  # of its stored state; None while nothing is stored


@dataclass
class Flight:
    """The lines under way, and when something last moved."""

    moved_at: float
    lines: dict[int, Line] = field(default_factory=dict)
    _sends: int = 0
    _newest_ended: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    def sent(self, prompt: Prompt, at: float) -> Line:
        """A line goes out, or goes out again, or was found in the ledger as sent."""
        self._sends += 1
        line = Line(prompt, sent_at=at, order=self._sends)
        self.lines[prompt.number] = line
        self.moved_at = max(self.moved_at, at)
        return line

    def seen(self, number: int, mark: int | None, now: float) -> None:
        """The stored state of a line was looked up; a change counts as movement."""
        line = self.lines[number]
        if mark != line.mark:
            line.mark = mark
            line.sent_at = self.moved_at = now

    def ended(self, number: int, now: float) -> None:
        """A line has its answer, or its error."""
        line = self.lines.pop(number)
        self._newest_ended = max(self._newest_ended, line.order)
        self.moved_at = now

    def excuse(self, now: float) -> None:
        """The broker was away: nobody could move, so every clock starts again."""
        self.moved_at = now
        for line in self.lines.values():
            line.sent_at = now

    def quiet(self, now: float, for_s: float) -> bool:
        """Whether nothing has moved for that long."""
        return now - self.moved_at >= for_s

    def overdue(self, now: float, after_s: float) -> list[Line]:
        """Lines to send again: silent for `after_s`, and overtaken by a later one, or nothing moves at all.

        Age alone would also resend what only waits in a long queue.
        """
        quiet = self.quiet(now, after_s)
        return [
            line
            for line in self.lines.values()
            if not line.unsent
            and now - line.sent_at >= (after_s if line.mark is None else after_s * _STATE_KNOWN_FACTOR)
            and (quiet or line.order < self._newest_ended)
        ]

"""Limits: a token bucket whose time comes in as an argument.

One bucket holds what a connection may still do. Refused work costs nothing, so a client that waits as told gets on.
"""

from dataclasses import dataclass

_PARTS = 1_000
"""Of one unit, so that a rate a second refills whole parts each ms: nothing is rounded, and a wait that was told is
long enough."""


@dataclass(slots=True)
class Bucket:
    """Refills at `rate_per_s`, holds at most `burst`, starts full. `level` is counted in thousandths."""

    rate_per_s: int
    burst: int
    level: int
    at_ms: int

    @classmethod
    def full(cls, rate_per_s: int, burst: int, now_ms: int) -> "Bucket":
        return cls(rate_per_s, burst, burst * _PARTS, now_ms)

    def take(self, amount: int, now_ms: int) -> int:
        """0 when `amount` was taken, else in how many ms it could be. More than the whole burst is taken when full."""
        self.level = min(self.burst * _PARTS, self.level + (now_ms - self.at_ms) * self.rate_per_s)
        self.at_ms = now_ms
        lacking = min(amount, self.burst) * _PARTS - self.level
        if lacking <= 0:
            self.level -= amount * _PARTS
            return 0
        return -(-lacking // self.rate_per_s)

"""Limits: a token bucket whose time comes in as an argument.

One bucket holds what a connection may still do. Refused work costs nothing, so a client that waits as told gets on.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Refills at `rate_per_s`, holds at most `burst`, starts full."""

    rate_per_s: float
    burst: float
    level: float
    at_ms: int

    @classmethod
    def full(cls, rate_per_s: float, burst: float, now_ms: int) -> "Bucket":
        return cls(rate_per_s, burst, burst, now_ms)

    def take(self, amount: float, now_ms: int) -> int:
        """0 when `amount` was taken, else in how many ms it could be. More than the whole burst is taken when full."""
        self.level = min(self.burst, self.level + (now_ms - self.at_ms) * self.rate_per_s / 1000)
        self.at_ms = now_ms
        needed = min(amount, self.burst)
        if self.level >= needed:
            self.level -= amount
            return 0
        return max(1, round((needed - self.level) * 1000 / self.rate_per_s))

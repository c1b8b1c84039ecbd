"""Limits whose time comes in as an argument.

A bucket holds what a connection may still do; a pace spreads what must not happen all at once. Refused work costs
nothing, so a client that waits as told gets on.
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


@dataclass(slots=True)
class Pace:
    """Gives each that comes a time of its own, `rate_per_s` of them in a second, none at the same time. Time is counted
    in microseconds, so that a rate does not lose its fractions."""

    rate_per_s: int
    next_us: int = 0

    def wait_ms(self, now_ms: int, wait_ms_max: int) -> int:
        """How long the one that comes now has to wait. If that is longer than it may, it has got no time, and should
        ask again then."""
        now_us = now_ms * 1_000
        at_us = max(self.next_us, now_us)
        wait_ms = -(-(at_us - now_us) // 1_000)
        if wait_ms <= wait_ms_max:
            self.next_us = at_us + 1_000_000 // self.rate_per_s
        return wait_ms

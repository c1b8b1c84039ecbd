"""Whether a model's service may be asked right now, and whether it may be asked again.

A service in trouble gets less to do, not more: without this, a minute of 429 would be answered with four requests a
turn. Two things hold them back. The *budget*: each step earns its service a fraction of a repeat, and each repeat costs
a whole one, so that however many fail, repeats stay a small part of all requests. The *rest*: after some failures in a
row nobody asks, until one request, the probe, finds out whether the service is back. A refusal of one request is not
trouble: whoever refuses is there.

What is told here are the outcomes of one node's own requests. Times are ms of one monotonic clock.
"""

from dataclasses import dataclass, field
from typing import Final

from turnwire.core.errors import RETRYABLE, FailureKind

REST_MS: Final = 2_000
"""The first rest. It doubles each time that a probe fails."""

REST_MS_MAX: Final = 30_000
PROBE_LOOK_MS: Final = 250
"""How soon to look again while the probe is out."""

_REFUSALS: Final[frozenset[FailureKind]] = frozenset(["upstream_rejected", "upstream_unauthorised"])

_PARTS: Final = 100
"""Of one repeat: the budget is counted in percent."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often one model is asked in a step before its first byte, and how long is waited in between."""

    attempts_max: int = 4
    wait_first_ms: int = 500
    """Doubles with each attempt, where the service does not say how long."""
    wait_ms_max: int = 8_000
    jitter: float = 0.25
    """The part of a wait that is left to chance, so that those who failed together do not return together."""
    budget_percent: int = 10
    """Repeats for each hundred steps of this node, so that a service in trouble does not get more to do. As many are
    there at first."""
    failures_max: int = 5
    """So many failures in a row, and the model is not asked for a while; 0: it always is."""


@dataclass(slots=True)
class UpstreamHealth:
    """One service, as this node knows it.

    `budget_percent` are repeats for each hundred steps, and as many are there at first and in reserve: a node with
    little to do could repeat nothing otherwise. `failures_max` in a row bring the rest; 0 means never. Each
    request that is `sent` is settled once, under the number that it got: `answered`, `failed`, or `left` without a
    verdict.
    """

    budget_percent: int = 10
    failures_max: int = 5
    trouble: FailureKind = "upstream_busy"
    """How the last request failed that did."""
    _budget: int = field(init=False)
    _sent: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _rests: int = field(default=0, init=False)
    """In a row: each is longer than the one before."""
    _rest_until_ms: int | None = field(default=None, init=False)
    """None when there is no rest, which lasts until a probe has come back."""
    _probe: int | None = field(default=None, init=False)
    """The request that is out to see whether the service is back."""

    def __post_init__(self) -> None:
        self._budget = self.budget_percent * _PARTS

    @property
    def may_repeat(self) -> bool:
        return self._budget >= _PARTS

    def rest_ms(self, now_ms: int) -> int:
        """For how long not to ask; 0 when a request may go out."""
        if self._rest_until_ms is None:
            return 0
        return max(0, self._rest_until_ms - now_ms) if self._probe is None else PROBE_LOOK_MS

    def begin_step(self) -> None:
        """A step wants its first answer from this service, which earns a part of a repeat."""
        self._budget = min(self.budget_percent * _PARTS, self._budget + self.budget_percent)

    def repeat(self) -> None:
        """A repeat is decided on, and paid for."""
        self._budget = max(0, self._budget - _PARTS)

    def sent(self) -> int:
        """A request goes out. Its number."""
        self._sent += 1
        if self._rest_until_ms is not None:
            self._probe = self._sent
        return self._sent

    def answered(self) -> None:
        """A request got content, or was refused for what it says: the service is there."""
        self._failures = self._rests = 0
        self._rest_until_ms = self._probe = None

    def failed(self, number: int, kind: FailureKind, retry_after_ms: int | None, now_ms: int) -> None:
        """A request ended before its first byte. `retry_after_ms` is what the service asked for, if it did."""
        if kind in _REFUSALS:
            self.answered()
        if kind not in RETRYABLE:
            return
        self._failures += 1
        self.trouble = kind
        was_probe = number == self._probe
        # What fails during a rest was sent before it, and is no news.
        if was_probe or (self._rest_until_ms is None and self._failures >= self.failures_max > 0):
            rest_ms = min(REST_MS << self._rests, REST_MS_MAX)
            self._rest_until_ms = now_ms + max(rest_ms, min(retry_after_ms or 0, REST_MS_MAX))
            self._rests = min(self._rests + 1, 10)
            self._probe = None

    def left(self, number: int) -> None:
        """A request was given up, for a reason that is not the service's. If it was the probe, the next one is."""
        if number == self._probe:
            self._probe = None

"""How much time the machine took from whoever measures, so that a deadline is held to and not the machine."""

import threading
import time
from typing import Final, Self

LOOK_S: Final = 0.01


class Slack:
    """As a context: a thread that wants to wake up every 10 ms. `lost_s` is by how much all its sleeps were late, from
    20 ms on each."""

    def __init__(self) -> None:
        self.lost_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        before_s = time.monotonic()
        while not self._over.wait(LOOK_S):
            now_s = time.monotonic()
            late_s = now_s - before_s - LOOK_S
            self.lost_s += late_s if late_s > 2 * LOOK_S else 0.0
            before_s = now_s

"""How much processor time something takes, whatever else the machine and coverage do meanwhile."""

import sys
import time
from collections.abc import Callable


def fastest_ms(call: Callable[[], object]) -> float:
    """CPU time of the best of three runs."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return min(_cpu_ms(call) for _ in range(3))
    finally:
        sys.settrace(tracer)


def _cpu_ms(call: Callable[[], object]) -> float:
    began_s = time.process_time()
    call()
    return 1_000 * (time.process_time() - began_s)

"""What closes sockets is tried on both event loops: on asyncio's own and on uvloop, which servers run on."""

import asyncio
from collections.abc import Callable

import pytest

try:
    import uvloop
except ImportError:  # Windows has none.
    uvloop = None

ON_BOTH_LOOPS = {"test_http_stream.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None and item.path.name in ON_BOTH_LOOPS:
        factories["uvloop"] = uvloop.new_event_loop
    return factories

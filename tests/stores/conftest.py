"""One store a worker and binary, emptied before each test; a store of its own for a test that kills it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.stores.server import StoreServer, binaries
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog


@pytest.fixture(scope="session", params=binaries(), ids=lambda path: path.parts[-1] + "-" + path.parts[-2])
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = StoreServer(request.param, tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: StoreServer) -> StoreServer:
    shared_server.clear()
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[StoreServer]:
    server = StoreServer(binaries()[0], tmp_path)
    server.start()
    yield server
    server.stop()


LIMITS = LogLimits(queue_turns_max=3, pending_cancels_max=4, log_entries_max=30, log_entries_keep=10)


@pytest.fixture
async def log(server: StoreServer) -> AsyncIterator[RedisSessionLog]:
    async with RedisSessionLog(Link(server.url), node="here", limits=LIMITS) as log:
        yield log


@pytest.fixture
async def other(server: StoreServer) -> AsyncIterator[RedisSessionLog]:
    """Another node on the same store."""
    async with RedisSessionLog(Link(server.url), node="there", limits=LIMITS) as log:
        yield log

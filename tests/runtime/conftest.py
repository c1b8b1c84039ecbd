"""A real store of this worker's own, and the log of one node on it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stores.making import SETTLED
from tests.stores.server import StoreServer, binaries
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

LIMITS = replace(SETTLED, lease_ms=1_000)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = StoreServer(binaries()[0], tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: StoreServer) -> StoreServer:
    shared_server.clear()
    return shared_server


@pytest.fixture
async def log(server: StoreServer) -> AsyncIterator[RedisSessionLog]:
    async with RedisSessionLog(Link(server.url), node="here", limits=LIMITS) as log:
        yield log


@pytest.fixture
async def other(server: StoreServer) -> AsyncIterator[RedisSessionLog]:
    """Another node on the same store."""
    async with RedisSessionLog(Link(server.url), node="there", limits=LIMITS) as log:
        yield log


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[StoreServer]:
    """For a test that kills it."""
    server = StoreServer(binaries()[0], tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def log_on_own_store(own_store: StoreServer) -> AsyncIterator[RedisSessionLog]:
    async with RedisSessionLog(Link(own_store.url), node="here") as log:
        yield log

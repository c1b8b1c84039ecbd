"""A real store for what is stored of keys and ended tokens."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.stores.server import StoreServer, binaries
from turnwire.identity.credentials import KnownCredentials
from turnwire.stores.redis.credentials import RedisCredentials
from turnwire.stores.redis.link import Link


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = StoreServer(binaries()[0], tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(shared_server: StoreServer) -> AsyncIterator[RedisCredentials]:
    shared_server.clear()
    async with RedisCredentials(Link(shared_server.url)) as store:
        yield store


@pytest.fixture
async def known(store: RedisCredentials) -> KnownCredentials:
    known = KnownCredentials(store)
    await known.refresh()
    return known

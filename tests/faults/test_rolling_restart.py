"""A rolling restart of two nodes while a hundred answers run: every one of them is whole, and nobody sees an error."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from tests.faults.pair import Pair, pair_of_nodes, prompt_of, told
from tests.support.provider_server import Answer, Gate, Pause, Piece, Received
from tests.support.waiting import until
from tests.support.watched import Watched

ANSWERS = 100
DELTAS = 40
GAP_MS = 20
PATIENCE_S = 120
SETTINGS = {"TURNWIRE_DRAIN_MS": "60000", "TURNWIRE_LEASE_MS": "10000", "TURNWIRE_RENEW_MS": "3000"}


def words_of(prompt: str) -> list[str]:
    return [f"{prompt}:{number} " for number in range(DELTAS)]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Rolling:
    """Half of the answers on each node, each half held in its middle until its node has been told to stop."""

    def __init__(self) -> None:
        self.gates = [asyncio.Event(), asyncio.Event()]
        self.serving = [True, True]

    def answer(self, request: Received) -> Answer:
        prompt = prompt_of(request)
        words: list[str | Piece] = [piece for word in words_of(prompt) for piece in (word, Pause(GAP_MS))]
        return told(*words[:DELTAS], Gate(self.gates[int(prompt) % 2]), *words[DELTAS:])

    def place_for(self, number: int) -> int:
        """A client's own node, and the other one while that does not serve."""
        return number % 2 if self.serving[number % 2] else 1 - number % 2

    async def restart(self, pair: Pair, place: int, clients: Sequence[Watched]) -> None:
        """SIGTERM in the middle of its answers; another process is there when they have ended."""
        self.serving[place] = False
        stopping = asyncio.create_task(pair.nodes[place].stop(PATIENCE_S))
        await until(lambda: any("goaway" in client.seen for client in clients), PATIENCE_S)
        self.gates[place].set()
        assert await stopping == 0
        await pair.start_again(place)
        self.serving[place] = True


async def test_a_rolling_restart_under_load_breaks_no_answer(tmp_path: Path) -> None:
    rolling = Rolling()
    async with pair_of_nodes(tmp_path, rolling.answer, SETTINGS) as pair:

        def client_of(number: int) -> Watched:
            return Watched(lambda: pair.nodes[rolling.place_for(number)].url)

        clients = [client_of(number) for number in range(ANSWERS)]
        try:
            await asyncio.gather(*(client.chat.connect() for client in clients))
            turns = [
                await client.chat.send(f"s{number}", str(number), turn=f"t{number}")
                for number, client in enumerate(clients)
            ]
            await until(lambda: all("turn.delta" in client.seen for client in clients), PATIENCE_S)
            for place in range(2):
                await rolling.restart(pair, place, clients[place::2])
            outcomes = await asyncio.wait_for(asyncio.gather(*(turn.done() for turn in turns)), PATIENCE_S)
        finally:
            await asyncio.gather(*(client.chat.close() for client in clients))
        assert [outcome.fault for outcome in outcomes] == [None] * ANSWERS
        texts = ["".join(words_of(str(number))) for number in range(ANSWERS)]
        assert [sha256(outcome.text) for outcome in outcomes] == [sha256(text) for text in texts]
        assert len(pair.provider.requests) == ANSWERS
        for client in clients:
            assert not client.broken
            assert not {"turn.error", "error"} & client.seen
            assert client.connections >= 2

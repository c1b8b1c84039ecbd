"""Users who chat while others attack. What they are owed is known beforehand, to the last byte."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from tests.protocol.generated import said
from tests.support.processes import NodeProcess
from tests.support.tokens import claims, shared
from tests.support.watched import Watched
from turnwire.core.entries import Message
from turnwire.providers.demo import demo_answer


def long_lived(user: str) -> str:
    """A token that outlives the longest attack."""
    return shared(user, exp=claims()["iat"] + 86_400)


@dataclass(slots=True)
class Victims:
    """`answers` came whole: the right text, with the right checksums, ended by turn.done, in keeping with the grammar,
    and without a reconnect. `wrong` are all the others."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def chatting(node: NodeProcess, users: int = 3, model: str = "demo") -> AsyncGenerator[Victims]:
    """So many users, in both codecs, each with a turn running at any time while the context lasts."""
    victims, over = Victims(), asyncio.Event()
    begun = [asyncio.Event() for _ in range(users)]
    tasks = [asyncio.create_task(_chat(node, victims, number, model, begun[number], over)) for number in range(users)]
    try:
        for event in begun:
            await asyncio.wait_for(event.wait(), 30)
        yield victims
    finally:
        over.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 120)


async def _chat(
    node: NodeProcess, victims: Victims, number: int, model: str, begun: asyncio.Event, over: asyncio.Event
) -> None:
    async def token() -> str:
        return long_lived(f"victim-{number}")

    codec: Literal["json", "msgpack"] = "msgpack" if number % 2 else "json"
    watched = Watched(node.url, codec=codec, token=token)
    async with watched.chat as chat:
        asked = 0
        while not over.is_set():
            asked += 1
            text = f"Question {asked} of victim {number}: does it all come through — 漢字 and 😀 too?"
            session = f"s_{secrets.token_hex(8)}"
            turn = await chat.send(session, text, model=model)
            async for _ in turn:
                begun.set()
            outcome = await turn.done()
            expected = demo_answer([Message("user", (said(text),))])
            if outcome.ok and outcome.finish_reason == "stop" and outcome.text == expected:
                victims.answers += 1
                await chat.close_session(session)
            else:
                victims.wrong.append(f"{asked} of {number}: {outcome.fault} {outcome.terminal} {watched.broken}")
                break
    if watched.connections != 1:
        victims.wrong.append(f"victim {number} was cut off {watched.connections - 1} times")
    try:
        watched.check()
    except Exception as broken:  # whatever the grammar says
        victims.wrong.append(f"victim {number}: {broken}")

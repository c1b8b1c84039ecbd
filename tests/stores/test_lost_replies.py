"""Every write, carried out by the store without anybody learning of it, and then repeated: it changes nothing more."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.stores.making import (
    SESSION,
    append,
    asking,
    batch,
    drop_replies,
    key,
    make_overdue,
    request,
    sealing,
)
from tests.stores.server import StoreServer
from turnwire.core.log_values import Appended, SessionChange
from turnwire.ports import Failure
from turnwire.stores.redis.log import RedisSessionLog

Step = Callable[[RedisSessionLog, StoreServer], Awaitable[Any]]


@dataclass(frozen=True)
class Write:
    """`before` comes before the call; `answers` are fields of its answer, when it is repeated after a lost reply."""

    before: tuple[Step, ...]
    call: Step
    answers: dict[str, Any]


def accept(turn: str = "t1", **changes: Any) -> Step:
    return lambda log, server: log.accept_turn(request(key(turn), **changes))


def cancel(turn: str = "t1") -> Step:
    return lambda log, server: log.cancel_turn(key(turn), "bob", "")


def appending(what: Callable[[], Any]) -> Step:
    sent = what()
    return lambda log, server: append(log, sent)


def respond(name: str) -> Step:
    return lambda log, server: log.respond_turn(key(), name, "bob", b"1")


async def run_out(log: RedisSessionLog, server: StoreServer) -> None:
    make_overdue(server, key())


WRITES = {
    "accept": Write((), accept(), {"result": "running", "seq": 1}),
    "accept, queued": Write((accept(),), accept("t2", on_busy="queue"), {"result": "queued", "seq": 2}),
    "accept, interrupting": Write(
        (accept(), accept("t2", on_busy="queue")),
        accept("t3", on_busy="interrupt"),
        {"result": "queued", "seq": 5, "interrupted": "t1"},
    ),
    "accept, cancelled before": Write((cancel(),), accept(), {"result": "sealed", "seq": 1}),
    "accept, refused": Write((accept(),), accept("t2"), {"result": "busy"}),
    "append": Write((accept(),), appending(batch), {"result": "dup", "first_seq": 2, "counter": 1}),
    "seal": Write(
        (accept(), accept("t2", on_busy="queue")),
        appending(sealing),
        {"result": "dup", "first_seq": 3, "next": "t2"},
    ),
    "park": Write((accept(),), appending(lambda: asking(key(), "r1")), {"result": "dup", "first_seq": 2}),
    "cancel, running": Write((accept(),), cancel(), {"result": "cancelling", "node": "here"}),
    "cancel, queued": Write((accept(), accept("t2", on_busy="queue")), cancel("t2"), {"result": "already_done"}),
    "cancel, parked": Write(
        (accept(), appending(lambda: asking(key(), "r1"))), cancel(), {"result": "cancelling", "take": "t1"}
    ),
    "respond": Write(
        (accept(), appending(lambda: asking(key(), "r1", "r2"))), respond("r1"), {"result": "ok", "take": None}
    ),
    "respond, the last": Write(
        (accept(), appending(lambda: asking(key(), "r1"))), respond("r1"), {"result": "ok", "take": "t1"}
    ),
    "take": Write((accept(), run_out), lambda log, server: log.take_turn(key(), "n2"), {"result": "taken", "takes": 1}),
    "update": Write(
        (accept(),),
        lambda log, server: log.update_session(SESSION, SessionChange(title=b'"T"')),
        {"logged": []},
    ),
    "delete": Write((accept(),), lambda log, server: log.delete_session(SESSION, "n"), {"seq": 2, "active": "t1"}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_that_is_repeated_changes_nothing_more(
    log: RedisSessionLog, server: StoreServer, write: Write
) -> None:
    for step in write.before:
        await step(log, server)
    await log.append_many([batch(key("nobody"))])  # both connections are there to be cut
    await log.ping()
    before = server.contents()
    for lane in (log._calls, *log._appends.lanes):
        drop_replies(lane)

    try:
        lost = await write.call(log, server)
        assert lost == Appended("away")
    except Failure as failure:
        assert failure.kind == "store_away"  # an append answers, the others raise
    done = server.contents()
    again = await write.call(log, server)

    assert {name: getattr(again, name) for name in write.answers} == write.answers
    assert server.contents() == done
    assert (done == before) is (write.answers.get("result") == "busy")

"""One thing goes wrong at a time, on two real nodes and a real store.

Where a case is told by one node, or by the store's scripts alone, it is in tests/runtime and tests/stores: an append or
an accept whose reply is lost, a promoted turn whose sealer died, a cancel that comes before its turn.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.faults.pair import Pair, pair_of_nodes, prompt_of, told
from tests.support.processes import NodeProcess
from tests.support.provider_server import Answer, Gate, Pause, Received
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until
from tests.support.watched import Watched
from turnwire.chat.transcript import Session
from turnwire_protocol.grammar import History

PATIENCE_S = 60
LOST_MAX = 10
PURPOSES = ("appends", "seals", "calls", "reads", "nudges", "check")
"""Of a node's connections to its store."""
LONGER_LEASES = {"TURNWIRE_LEASE_MS": "6000", "TURNWIRE_RENEW_MS": "1000"}
AWAY_S = 13
LATER_S = 1.5


def by_prompt(**answers: Answer) -> Callable[[Received], Answer]:
    return lambda request: answers[prompt_of(request)]


async def first_words(session: Session, turn: str, text: str) -> None:
    """Wait until a client has been shown this much of a turn."""
    await until(lambda: turn in session.turns and session.turns[turn].text.startswith(text), PATIENCE_S)


async def closed(request: Received) -> None:
    await asyncio.wait_for(request.closed.wait(), PATIENCE_S)


async def test_a_writer_that_stood_still_is_left_out_when_it_wakes(tmp_path: Path) -> None:
    """It had asked and heard nothing; another node ran its turn meanwhile."""
    gate = asyncio.Event()
    answers = [told(Gate(gate), "stale"), told("fresh"), told("next")]
    async with pair_of_nodes(tmp_path, lambda _request: answers.pop(0)) as pair:
        stopped, other = pair.nodes
        watched = Watched(other.url)
        sender = Watched(stopped.url, history=watched.history)
        async with watched.chat as chat:
            async with sender.chat as sending:
                turn = await sending.send("s", "hi", turn="t")
                await turn.acknowledged()
                zombie = await pair.provider.request(0)
                await until(lambda: "turn.started" in sender.seen)
                stopped.pause()
            session = await chat.open("s")
            await until(lambda: "t" in session.turns and session.turns["t"].ended, PATIENCE_S)
            gate.set()
            stopped.resume()
            await closed(zombie)
            # Whatever it had to say would stand before what is said next.
            assert (await (await chat.send("s", "hi", turn="t2")).done()).text == "next"
            assert session.turns["t"].text == "fresh"
            terminal = session.turns["t"].terminal
            assert terminal is not None and (terminal["type"], terminal["attempts"]) == ("turn.done", 2)
        watched.check()


@pytest.mark.parametrize("how", ["cut off", "stands still"])
async def test_a_store_that_is_away_for_long_costs_no_answer(tmp_path: Path, how: str) -> None:
    """For longer than two leases: everybody's runs out, and nobody's is taken."""
    gates = {name: asyncio.Event() for name in ("one", "two")}
    answers = {name: told(f"{name} begins ", Gate(gate), f"{name} goes on") for name, gate in gates.items()}
    async with pair_of_nodes(tmp_path, by_prompt(**answers), LONGER_LEASES) as pair:
        clients = [Watched(node.url) for node in pair.nodes]
        async with clients[0].chat as first, clients[1].chat as second:
            turns = [await first.send("s1", "one", turn="t1"), await second.send("s2", "two", turn="t2")]
            await first_words(first.transcript.sessions["s1"], "t1", "one begins ")
            await first_words(second.transcript.sessions["s2"], "t2", "two begins ")
            await away(pair, how, for_s=AWAY_S)
            for gate in gates.values():
                gate.set()
            outcomes = [await asyncio.wait_for(turn.done(), PATIENCE_S) for turn in turns]
            assert [outcome.text for outcome in outcomes] == ["one begins one goes on", "two begins two goes on"]
            assert [outcome.finish_reason for outcome in outcomes] == ["stop", "stop"]
        assert len(pair.provider.requests) == 2
        for client in clients:
            client.check()


async def away(pair: Pair, how: str, for_s: float) -> None:
    """Nobody hears of the store for a while, and the first node for a little longer: the other one finds its lease
    overdue, and has to give it the time to say that it lives."""
    if how == "stands still":
        os.kill(pair.store.pid, signal.SIGSTOP)
    else:
        refuse(pair.proxies, True)
    await asyncio.sleep(for_s)  # the store's time is what is tested
    refuse(pair.proxies[:1], True)
    if how == "stands still":
        os.kill(pair.store.pid, signal.SIGCONT)
    refuse(pair.proxies[1:], False)
    await asyncio.sleep(LATER_S)
    refuse(pair.proxies[:1], False)


def refuse(proxies: Sequence[TcpProxy], value: bool) -> None:
    for proxy in proxies:
        for purpose in PURPOSES:
            proxy.rule(purpose).refuse = value
            if value:
                proxy.cut(purpose)


async def test_readers_reach_the_end_when_no_nudge_tells_of_it(tmp_path: Path) -> None:
    """The other node's subscription seems to live and hears nothing, so only its own check finds what was appended."""
    gate = asyncio.Event()
    async with pair_of_nodes(tmp_path, lambda _request: told("begun ", Gate(gate), "done")) as pair:
        sender = Watched(pair.nodes[0].url)
        reader = Watched(pair.nodes[1].url, history=sender.history)
        async with sender.chat as sending, reader.chat as reading:
            session = await reading.open("s")
            turn = await sending.send("s", "hi", turn="t")
            await first_words(session, "t", "begun ")
            pair.proxies[1].rule("nudges").swallow = frozenset(("back",))
            gate.set()
            assert (await asyncio.wait_for(turn.done(), PATIENCE_S)).ok
            loop = asyncio.get_running_loop()
            began = loop.time()
            await until(lambda: session.turns["t"].ended, PATIENCE_S)
            print(f"the end was read {loop.time() - began:.1f} s later")
            assert session.turns["t"].text == "begun done"
            assert reader.connections == 1
        for client in (sender, reader):
            client.check()


async def test_a_cancel_that_finds_the_writer_dead_ends_the_turn_with_what_was_said(tmp_path: Path) -> None:
    async with pair_of_nodes(tmp_path, lambda _request: told("said", end=False)) as pair:
        survivor = Watched(pair.nodes[1].url)
        async with survivor.chat as chat:
            session = await chat.open("s")
            sender = Watched(pair.nodes[0].url, history=survivor.history)
            async with sender.chat as sending:
                await (await sending.send("s", "hi", turn="t")).acknowledged()
                await first_words(session, "t", "said")
                await pair.nodes[0].kill()
            assert await chat.cancel("s", "t") == "cancelling"
            await until(lambda: session.turns["t"].ended, PATIENCE_S)
            terminal = session.turns["t"].terminal
            assert terminal is not None and terminal["finish_reason"] == "cancelled"
            assert session.turns["t"].text == "said"
        assert len(pair.provider.requests) == 1
        survivor.check()


async def test_cancels_that_meet_the_end_leave_one_end(tmp_path: Path) -> None:
    """From the other node, at moments spread around that of the end."""
    async with pair_of_nodes(tmp_path, lambda _request: told("a ", Pause(10), "b ", Pause(10), "c")) as pair:
        history = History()
        sender, other = (Watched(node.url, history=history) for node in pair.nodes)
        finished: set[str | None] = set()
        async with sender.chat as sending, other.chat as cancelling:
            session = await cancelling.open("s")
            for number in range(24):
                turn = await sending.send("s", "hi", turn=f"t{number}")
                await turn.acknowledged()
                await asyncio.sleep(number * 0.003)
                result = await cancelling.cancel("s", turn.id)
                outcome = await asyncio.wait_for(turn.done(), PATIENCE_S)
                await until(lambda turn=turn: session.turns[turn.id].ended, PATIENCE_S)
                assert session.turns[turn.id].terminal == outcome.terminal
                assert "a b c".startswith(outcome.text)
                if result == "already_done":
                    assert outcome.finish_reason == "stop"
                finished.add(outcome.finish_reason)
        assert finished == {"stop", "cancelled"}
        for client in (sender, other):
            client.check()


async def test_interrupts_that_meet_leave_one_answer(tmp_path: Path) -> None:
    """Two devices, on two nodes, each want the running answer to make room for theirs."""

    def answer(request: Received) -> Answer:
        return told("on and on", end=False) if prompt_of(request) == "first" else told(f"re {prompt_of(request)}")

    async with pair_of_nodes(tmp_path, answer) as pair:
        history = History()
        one, other = (Watched(node.url, history=history) for node in pair.nodes)
        async with one.chat as here, other.chat as there:
            await there.open("s")
            for number in range(6):
                first = await here.send("s", "first", turn=f"a{number}")
                await first.acknowledged()
                turns = await asyncio.gather(
                    here.send("s", "mine", turn=f"b{number}", on_busy="interrupt"),
                    there.send("s", "yours", turn=f"c{number}", on_busy="interrupt"),
                )
                outcomes = [await asyncio.wait_for(turn.done(), PATIENCE_S) for turn in (first, *turns)]
                reasons = [outcome.finish_reason for outcome in outcomes]
                assert reasons[0] == "cancelled"
                # The later one cancels the earlier, unless that one was over already.
                assert sorted(map(str, reasons[1:])) in (["cancelled", "stop"], ["stop", "stop"])
                for outcome, text in zip(outcomes[1:], ("re mine", "re yours"), strict=True):
                    assert outcome.text == text if outcome.finish_reason == "stop" else text.startswith(outcome.text)
        for client in (one, other):
            client.check()


async def test_a_rename_that_the_store_lost_is_told_by_another_history(tmp_path: Path) -> None:
    """Nothing but a session.updated is lost: numbers are given anew, and nobody takes one history for the other."""
    async with pair_of_nodes(tmp_path, lambda request: told(f"re {prompt_of(request)}")) as pair:
        history = History()
        one, other = (Watched(node.url, history=history) for node in pair.nodes)
        async with one.chat as here, other.chat as there:
            sessions = [await here.open("s"), await there.open("s")]
            assert (await (await here.send("s", "one", turn="t1")).done()).text == "re one"
            await until(lambda: all(session.turns and session.turns["t1"].ended for session in sessions), PATIENCE_S)
            gen, seq = sessions[0].gen, sessions[0].seq
            pair.store.keep()
            await rename(pair.nodes[0], "lost")
            await until(lambda: all(session.title == "lost" for session in sessions), PATIENCE_S)
            assert {session.seq for session in sessions} == {seq + 1}
            await asyncio.to_thread(pair.store.go_back)
            await until(lambda: all(session.gen not in (None, gen) for session in sessions), PATIENCE_S)
            assert {session.seq for session in sessions} == {seq}
            assert (await (await there.send("s", "two", turn="t2")).done()).text == "re two"
            await until(lambda: all("t2" in s.turns and s.turns["t2"].ended for s in sessions), PATIENCE_S)
            assert [turn.text for turn in sessions[0].turns.values()] == ["re one", "re two"]
        for client in (one, other):
            client.check()


async def rename(node: NodeProcess, title: str) -> None:
    address = f"{node.http_url}/v1/sessions/s"
    async with aiohttp.ClientSession() as http, http.patch(address, json={"title": title}) as answer:
        assert answer.status == 200


async def test_an_answer_goes_on_when_the_reply_to_an_append_is_lost(tmp_path: Path) -> None:
    """Again and again, on the wire, while more of it comes."""
    words = [f"{number} " for number in range(200)]
    deltas = [piece for word in words for piece in (word, Pause(5))]
    async with pair_of_nodes(tmp_path, lambda _request: told(*deltas)) as pair:
        watched = Watched(pair.nodes[0].url)
        async with watched.chat as chat:
            turn = await chat.send("s", "hi", turn="t")
            done = asyncio.ensure_future(turn.done())
            lost = 0
            for number in range(LOST_MAX):
                cut = pair.proxies[0].cut_next("back" if number % 2 else "onward", "appends")
                waiting = asyncio.ensure_future(cut.wait())
                await asyncio.wait((waiting, done), return_when=asyncio.FIRST_COMPLETED)
                lost += cut.is_set()
                waiting.cancel()
            pair.proxies[0].heal("appends")
            await asyncio.wait_for(done, PATIENCE_S)
            assert done.result().text == "".join(words)
            assert lost > 5
        watched.check()
        assert len(pair.provider.requests) == 1

"""What a person sees in the terminal, and what a pipe gets."""

import asyncio
import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chat.scripted_log import ScriptedLog
from tests.chat.scripted_server import Frame, Peer, ScriptedServer
from turnwire.chat import terminal

WAIT_S = 20


class Script:
    """A server that follows one conversation. `answer` says what it does with a turn."""

    def __init__(self) -> None:
        self.log = ScriptedLog()
        self.commands: list[Frame] = []
        self.cancelled = asyncio.Event()
        self.answering = asyncio.Event()
        self.answer: Callable[[Peer, str], Any] = self.echo

    async def serve(self, server: ScriptedServer) -> None:
        """Serve every connection until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                peer = await server.accepted()
                await peer.greet()
                group.create_task(self.converse(peer))

    async def converse(self, peer: Peer) -> None:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            command = await peer.next()
            self.commands.append(command)
            match command["type"]:
                case "session.open":
                    self.log.session = command["session"]
                    await peer.say(*self.log.answer(command))
                case "session.close":
                    self.log = ScriptedLog()
                    await peer.ack(command)
                case "turn.create":
                    tasks.add(asyncio.create_task(self.take(peer, command)))
                case "turn.cancel":
                    await peer.ack(command, result="cancelling")
                    self.cancelled.set()
                case _:
                    raise AssertionError(command)

    async def take(self, peer: Peer, command: Frame) -> None:
        fresh = not self.log.frames
        texts = [part["text"] for part in command["input"]]
        accepted = self.log.accept(command["turn"], "".join(texts))
        await peer.ack(command, seq=accepted["seq"], duplicate=False)
        if fresh:
            await peer.say(self.log.opened("snapshot", 0, None, seq=0))
        await peer.say(accepted)
        await self.answer(peer, command["turn"])

    async def echo(self, peer: Peer, turn: str) -> None:
        await peer.say(self.log.delta(turn, f"You said {len(self.log.turns())}."), self.log.end(turn))

    async def stall(self, peer: Peer, turn: str) -> None:
        """Say a word, then wait for the cancel."""
        await peer.say(self.log.delta(turn, "Well"))
        self.answering.set()
        await self.cancelled.wait()
        await peer.say(self.log.end(turn, finish_reason="cancelled"))

    def sent(self, kind: str) -> list[Frame]:
        return [command for command in self.commands if command["type"] == kind]


@asynccontextmanager
async def scripted() -> AsyncGenerator[tuple[Script, str]]:
    async with ScriptedServer.started() as server:
        script = Script()
        serving = asyncio.create_task(script.serve(server))
        try:
            yield script, server.url
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def code_of(url: str, **options: Any) -> int:
    async with asyncio.timeout(WAIT_S):
        return await terminal.run(url, **options)


Pipe = Callable[[str], None]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """Give a text to standard input, which then ends."""
    read, write = os.pipe()
    with os.fdopen(read) as stream:
        monkeypatch.setattr(sys, "stdin", stream)

        def give(text: str) -> None:
            os.write(write, text.encode())
            os.close(write)

        yield give


# --- one question --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_once_prints_the_answer_and_nothing_else(codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):
        assert await code_of(url, once="hello", model="demo/slow", codec=codec) == 0
    assert tuple(capsys.readouterr()) == ("You said 1.\n", "")
    (command,) = script.sent("turn.create")
    assert (command["input"], command["model"]) == ([{"type": "text", "text": "hello"}], "demo/slow")


async def test_reasoning_and_tool_calls_stay_out_of_the_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):

        async def answer(peer: Peer, turn: str) -> None:
            await peer.say(
                script.log.delta(turn, "Hm.", kind="reasoning"),
                script.log.delta(turn, "\tYes", part=1),
                script.log.delta(turn, " and no", part=1),
                script.log.delta(turn, '{"a":1}', part=2, kind="tool_call", call="c1", name="look_up"),
                script.log.end(turn, finish_reason="tool_calls"),
            )

        script.answer = answer
        assert await code_of(url, once="hello") == 0
    out, err = capsys.readouterr()
    assert out == "\tYes and no\n"
    assert err == 'Hm.\ntool_call look_up\n{"a":1}\nthe model called a tool, and this terminal has none\n'


async def test_a_failed_answer_is_told_with_what_helps_and_fails_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with scripted() as (script, url):

        async def answer(peer: Peer, turn: str) -> None:
            await peer.say(script.log.delta(turn, "We"), script.log.fail(turn, "upstream_truncated"))

        script.answer = answer
        assert await code_of(url, once="hello") == 1
    assert tuple(capsys.readouterr()) == ("We\n", "It failed. /regenerate tries again.\n")


async def test_a_retry_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):

        async def answer(peer: Peer, turn: str) -> None:
            retrying: Frame = {"attempt": 2, "delay_ms": 1_500, "code": "upstream_unavailable"}
            await peer.say(script.log.append("turn.retrying", turn, **retrying))
            asked = script.log.append("turn.asked", turn, request="r1", detail={}, kind="approval")
            await peer.say(asked, script.log.delta(turn, "Ok"), script.log.end(turn))

        script.answer = answer
        assert await code_of(url, once="hello") == 0
    out, err = capsys.readouterr()
    assert out == "Ok\n"
    assert "the model failed (upstream_unavailable); trying again in 1.5 s\n" in err
    assert "waits for something that this terminal does not have" in err


async def test_what_a_model_says_cannot_take_over_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):

        async def answer(peer: Peer, turn: str) -> None:
            text = "a\x1b]0;owned\x07b\x9bc\u202ed\r\n\te\u200d👩\u200d🚀 日本語 [bold]x[/bold]"
            await peer.say(script.log.delta(turn, text), script.log.end(turn))

        script.answer = answer
        assert await code_of(url, once="hello") == 0
    assert capsys.readouterr().out == "a␛]0;owned␇b\ufffdc\ufffdd\n\te\u200d👩\u200d🚀 日本語 [bold]x[/bold]\n"


async def test_a_model_that_the_server_does_not_have_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (_, url):
        assert await code_of(url, once="hello", model="nope") == 1
    assert capsys.readouterr().err == "This server has no model nope; it has demo, demo/slow.\n"


async def test_no_server_is_told_with_the_way_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedServer.started() as server:
        url = server.url
    assert await code_of(url, once="hello") == 1
    assert re.fullmatch(r"Nobody answers at \S+ \(connection refused\)\. .+: turnwire serve\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("url", "session", "sentence"),
    [("ftp://x", None, "no address of a server"), ("127.0.0.1:1", "a b", "a b names no conversation")],
)
async def test_nonsense_is_told_before_anything_is_tried(
    url: str, session: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await code_of(url, once="hello", session=session) == 1
    assert sentence in capsys.readouterr().err


async def test_a_refused_conversation_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedServer.started() as server:
        running = asyncio.create_task(code_of(server.url, once="hello"))
        peer = await server.accepted()
        await peer.greet()
        await peer.refuse(await peer.expect("session.open"), "rate_limited", "same_frame")
        assert await running == 1
    assert "It is rate_limited." in capsys.readouterr().err


async def test_a_turn_that_is_refused_says_when_to_try_again(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedServer.started() as server:
        running = asyncio.create_task(code_of(server.url, once="hello", session="s"))
        peer = await server.accepted()
        await peer.greet()
        await peer.say(*ScriptedLog("s").answer(await peer.expect("session.open")))
        await peer.refuse(await peer.expect("turn.create"), "busy", "same_frame", retry_after_ms=3_000)
        assert await running == 1
    assert tuple(capsys.readouterr()) == ("", "It is busy. Try again in 3 s.\n")


# --- several lines -------------------------------------------------------------------------------------------------


async def test_lines_of_a_pipe_are_messages_and_commands(piped: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["one", "", "  /model demo/slow ", "two", "/regenerate", "/model nope", "/model", "/what", "/new", "three"]
    piped("\n".join(lines))
    async with scripted() as (script, url):
        assert await code_of(url) == 0
    out, err = capsys.readouterr()
    assert out == "You said 1.\nYou said 2.\nYou said 3.\nYou said 1.\n"
    for note in (
        "from now on demo/slow",
        "no model nope",
        "demo, demo/slow (chosen)",
        "/quit leaves",
        "a new conversation",
    ):
        assert note in err
    one, two, again, three = script.sent("turn.create")
    assert "model" not in one and two["model"] == "demo/slow"
    assert (again["again"], again["input"]) == (two["turn"], [])
    assert three["session"] != one["session"]


async def test_there_must_be_something_to_regenerate(piped: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    piped("/regenerate\n/quit\nnever\n")
    async with scripted() as (script, url):
        assert await code_of(url) == terminal.INTERRUPTED
    assert "nothing to answer again" in capsys.readouterr().err
    assert script.sent("turn.create") == []


async def test_a_conversation_is_taken_up_with_what_was_said(piped: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    piped("more\n")
    async with scripted() as (script, url):
        script.log.accept("t1", "hello")
        script.log.delta("t1", "Hi!")
        script.log.end("t1")
        assert await code_of(url, session="known") == 0
    out, err = capsys.readouterr()
    assert out == "Hi!\nYou said 2.\n"
    assert "› hello" in err
    assert script.sent("turn.create")[0]["session"] == "known"


async def test_a_cut_is_noted_quietly_and_the_answer_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):

        async def answer(peer: Peer, turn: str) -> None:
            await peer.say(script.log.delta(turn, "Hel"))
            await (await peer.socket.ping())  # the client has it
            peer.cut()
            script.log.delta(turn, "lo")
            script.log.end(turn)

        script.answer = answer
        assert await code_of(url, once="hello") == 0
    note = "connection lost; the answer goes on when it is back\nback\n"
    assert tuple(capsys.readouterr()) == ("Hel\nlo\n", note)


async def test_a_server_that_sends_the_client_away_is_quoted(piped: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    piped("one\ntwo\n")
    async with scripted() as (script, url):

        async def answer(peer: Peer, _turn: str) -> None:
            error = {"code": "forbidden", "message": "You may not.", "retry": "none"}
            await peer.say({"type": "error", "error": error})
            await peer.close(4403)

        script.answer = answer
        assert await code_of(url) == terminal.INTERRUPTED
    assert "You may not." in capsys.readouterr().err
    assert len(script.sent("turn.create")) == 1


# --- Ctrl-C --------------------------------------------------------------------------------------------------------


async def test_an_interrupt_stops_the_answer_and_keeps_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):
        script.answer = script.stall
        running = asyncio.create_task(code_of(url, once="hello"))
        await script.answering.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await running == 1
    assert tuple(capsys.readouterr()) == ("Well\n", "stopped\n")
    assert len(script.sent("turn.cancel")) == 1


async def test_a_second_interrupt_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted() as (script, url):
        script.answer = script.stall
        script.cancelled.set = lambda: os.kill(os.getpid(), signal.SIGINT)  # the server goes on talking
        running = asyncio.create_task(code_of(url, once="hello"))
        await script.answering.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await running == terminal.INTERRUPTED
    assert capsys.readouterr().out == "Well\n"


# --- a real terminal -----------------------------------------------------------------------------------------------


class Screen:
    """`turnwire chat` in a pseudo-terminal."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.master = master
        self.process = process
        self.shown = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self.read)

    @classmethod
    @asynccontextmanager
    async def started(cls, url: str) -> AsyncGenerator["Screen"]:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "turnwire", "chat", url),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        )
        os.close(slave)
        screen = cls(master, process)
        try:
            yield screen
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)

    def read(self) -> None:
        try:
            self.shown += self.decoder.decode(os.read(self.master, 65_536))
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self.master)
        self.news.set()

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    async def until(self, text: str) -> None:
        """Wait until `text` was shown, and forget everything up to it."""
        async with asyncio.timeout(WAIT_S):
            while text not in self.shown:
                self.news.clear()
                await self.news.wait()
        self.shown = self.shown.partition(text)[2]

    async def exit_code(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


def take_terminal() -> None:
    """Make the slave the controlling terminal, so that Ctrl-C is a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_a_person_types_edits_stops_and_leaves() -> None:
    async with scripted() as (script, url), Screen.started(url) as screen:
        await screen.until("model demo")
        await screen.until("›")
        screen.type("hellp\x7fo\r")
        await screen.until("You said 1.")
        await screen.until("›")
        assert script.sent("turn.create")[0]["input"][0]["text"] == "hello"
        script.answer = script.stall
        screen.type("\x1b[A\r")  # the arrow up brings the line back
        await script.answering.wait()
        await screen.until("Well")
        assert script.sent("turn.create")[1]["input"][0]["text"] == "hello"
        screen.type("\x03")
        await screen.until("stopped")
        await screen.until("›")
        screen.type("half a line\x03")
        assert await screen.exit_code() == 0
        echo = termios.tcgetattr(screen.master)[3] & termios.ECHO
        assert echo, "the terminal was not put back"


async def test_the_end_of_input_leaves() -> None:
    async with scripted() as (_, url), Screen.started(url) as screen:
        await screen.until("›")
        screen.type("\x04")
        assert await screen.exit_code() == 0

"""A person at a terminal talks to a Turnwire server.

What a model says is text and nothing else: control characters, which could move the cursor, rename the window or hide
what came before, are shown as what they are. The answer alone goes to standard output; notes, errors and the prompt's
company go to standard error, so that a pipe holds nothing but answers.
"""

import asyncio
import io
import re
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

from rich.console import Console
from rich.text import Text

from turnwire.chat.connection import VERSION, ChatConnection, ServerClosed
from turnwire.chat.handle import Delta, Outcome, TurnHandle
from turnwire.chat.keyboard import Keyboard
from turnwire.chat.outbox import CommandRefused
from turnwire.chat.transcript import Session
from turnwire.chat.turns import Fault
from turnwire.chat.wire import Unreachable
from turnwire_protocol.events import Frame
from turnwire_protocol.limits import ID_PATTERN

HELP: Final = (
    "/new begins a new conversation · /model NAME chooses a model, /model lists them · /regenerate answers the last "
    "message again · /quit leaves. Ctrl-C stops an answer; twice, or here, it leaves."
)
# The marks \001 and \002 tell readline which characters take no room.
PROMPT: Final = "\001\033[1;36m\002›\001\033[0m\002 "
SHOWN_TURNS: Final = 10
"""Earlier turns that are shown when a conversation is taken up again."""

STYLES: Final = {"reasoning": "dim italic", "refusal": "yellow", "tool_call": "magenta", "data": "cyan"}
FINISHED: Final = {
    "cancelled": "stopped",
    "length": "cut off at the greatest length that is allowed",
    "content_filter": "cut off by the model's content filter",
    "tool_calls": "the model called a tool, and this terminal has none",
    "budget": "cut off because the budget is used up",
}
ADVICE: Final = {
    "same_frame": "Try again in a moment.",
    "new_turn": "/regenerate tries again.",
    "reconnect": "Start turnwire chat again.",
}
TURNING: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INTERRUPTED: Final = 130
"""The exit code that shells give a program that Ctrl-C ended."""

Value = TypeVar("Value")


class _Left(Exception):
    """The person wants to leave."""


async def run(
    url: str,
    *,
    once: str | None = None,
    model: str | None = None,
    session: str | None = None,
    codec: Literal["json", "msgpack"] = "json",
    token: str | None = None,
) -> int:
    """Chat until the person leaves, or send `once` and print the answer. The exit code: 1 when something failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character shows another
            stream.reconfigure(errors="replace")
    terminal = Terminal(model, session)
    if session is not None and not re.fullmatch(ID_PATTERN, session):
        terminal.complain(
            f"{session} names no conversation: a name has 1 to 64 letters, digits, hyphens or underscores."
        )
        return 1
    try:
        chat = ChatConnection(
            url,
            token=None if token is None else _always(token),
            codec=codec,
            on_frame=terminal.on_frame,
            on_status=terminal.on_status,
        )
        async with chat:
            return await terminal.talk(chat, once)
    except (Unreachable, ServerClosed) as error:
        hint = " Start a server with: turnwire serve" if "connection refused" in str(error) else ""
        terminal.complain(f"{error}{hint}")
        return 1


def _always(token: str) -> Callable[[], Awaitable[str]]:
    async def give() -> str:
        return token

    return give


class Terminal:
    """One conversation at a time. `model` None leaves the choice to the server."""

    def __init__(self, model: str | None, session: str | None) -> None:
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._model = model
        self._session = session or _new_session()
        self._resumed = session is not None
        self._answering: TurnHandle | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._mid_line: Console | None = None
        """Where a line is not finished."""
        self._was_offline = False
        self._failed = False

    async def talk(self, chat: ChatConnection, once: str | None) -> int:
        """Everything between connecting and leaving. The exit code."""
        with _interrupts(self._interrupt):
            try:
                if self._model is not None and not self._choose(chat, self._model):
                    return 1
                opened = await self._or_left(chat.open(self._session))
                if once is None:
                    return await self._converse(chat, opened)
                await self._say(chat, once)
                return int(self._failed)
            except CommandRefused as refused:
                self.complain(refused.fault.message)
                return 1
            except _Left:
                self._end_line()
                return INTERRUPTED

    async def _converse(self, chat: ChatConnection, opened: Session) -> int:
        with Keyboard(PROMPT) as keyboard:
            if keyboard.interactive:
                self._introduce(chat)
            for turn in list(opened.turns)[-SHOWN_TURNS:] if self._resumed else ():
                await self._show_earlier(chat, turn)
            if not keyboard.interactive:
                await self._listen(chat, keyboard)
                return int(self._failed)
            try:
                await self._listen(chat, keyboard)
            except _Left:
                self._end_line()
            self._err.print()  # the prompt's line is still open
            return 0

    # --- what the connection tells ---------------------------------------------------------------------------------

    def on_status(self, status: str, reason: str) -> None:
        if status == "offline" and not self._was_offline:
            self._was_offline = True
            if self._answering is not None:
                self._note("connection lost; the answer goes on when it is back")
        elif status == "live" and self._was_offline:
            self._was_offline = False
            if self._answering is not None:
                self._note("back")
        elif status == "refused":
            self.complain(reason)

    def on_frame(self, side: str, frame: Frame) -> None:
        if side == "server" and self._answering is not None and frame.get("turn") == self._answering.id:
            if frame["type"] == "turn.retrying":
                self._note(f"the model failed ({frame['code']}); trying again in {frame['delay_ms'] / 1000:.1f} s")
            elif frame["type"] == "turn.asked":
                self._note("the answer waits for something that this terminal does not have; Ctrl-C stops it")

    # --- talking ---------------------------------------------------------------------------------------------------

    async def _listen(self, chat: ChatConnection, keyboard: Keyboard) -> None:
        while (line := await self._or_left(keyboard.line())) is not None:
            text = line.strip()
            if chat.status == "refused":
                raise _Left
            if text.startswith("/"):
                await self._command(chat, *text.partition(" ")[::2])
            elif text:
                await self._say(chat, text)

    async def _command(self, chat: ChatConnection, name: str, argument: str) -> None:
        match name:
            case "/quit" | "/exit":
                raise _Left
            case "/new":
                await self._or_left(chat.close_session(self._session))
                self._session = _new_session()
                await self._or_left(chat.open(self._session))
                self._note("a new conversation")
            case "/model" if argument:
                if self._choose(chat, argument.strip()):
                    self._note(f"from now on {self._model}")
            case "/model":
                chosen = self._model or chat.welcome["models"][0]
                names = [f"{one} (chosen)" if one == chosen else one for one in chat.welcome["models"]]
                self._note(", ".join(names))
            case "/regenerate":
                turns = list(chat.transcript.sessions[self._session].turns)
                if turns:
                    await self._show(await chat.regenerate(self._session, turns[-1], **self._options()))
                else:
                    self._note("there is nothing to answer again yet")
            case _:
                self._note(HELP)

    def _choose(self, chat: ChatConnection, model: str) -> bool:
        models = [str(one) for one in chat.welcome["models"]]
        if model not in models:
            self.complain(f"This server has no model {model}; it has {', '.join(models)}.")
            return False
        self._model = model
        return True

    def _options(self) -> dict[str, Any]:
        return {} if self._model is None else {"model": self._model}

    async def _say(self, chat: ChatConnection, text: str) -> None:
        if chat.status != "live":
            self._note("offline; it is sent when the connection is back")
        await self._show(await chat.send(self._session, text, **self._options()))

    async def _show_earlier(self, chat: ChatConnection, turn: str) -> None:
        handle = chat.follow(self._session, turn)
        asked = handle.turn
        self._err.print(Text(f"› {_printable(asked.question if asked is not None else '')}", "bold"))
        await self._show(handle)

    async def _show(self, handle: TurnHandle) -> None:
        """Stream an answer. An interrupt stops it, a second one leaves."""
        self._answering = handle
        try:
            outcome = await self._or_left(self._stream(handle))
        finally:
            self._answering = None
            if self._stopping is not None:
                self._stopping.cancel()
                self._stopping = None
        self._end_line()
        self._tell_end(outcome)

    async def _stream(self, handle: TurnHandle) -> Outcome:
        part = -1
        async for delta in handle:
            if delta.part != part:
                self._end_line()
                part = delta.part
                self._begin_part(handle, delta)
            elif delta.replaces:
                self._note("the server has another history of this answer; it begins again")
            self._write(delta)
        return await handle.done()

    def _begin_part(self, handle: TurnHandle, delta: Delta) -> None:
        """Say what a part is, where its text alone would not."""
        known = handle.turn.parts.get(delta.part) if handle.turn is not None else None
        if known is not None and known.name is not None:
            self._err.print(Text(_printable(f"{delta.kind} {known.name}"), "dim"))

    def _write(self, delta: Delta) -> None:
        text = _printable(delta.text)
        if not text:
            return
        # Only the answer itself belongs into a pipe, and there it belongs as it is: rich would lay out its tabs.
        console = self._out if delta.kind in ("text", "refusal") else self._err
        if console.is_terminal and delta.kind in STYLES:
            console.print(Text(text, STYLES[delta.kind]), end="")
        else:
            console.file.write(text)
        console.file.flush()
        self._mid_line = None if text.endswith("\n") else console

    def _tell_end(self, outcome: Outcome) -> None:
        if outcome.fault is not None:
            self._failed = True
            self.complain(_with_advice(outcome.fault))
        elif outcome.finish_reason in FINISHED:
            self._failed |= outcome.finish_reason == "cancelled"
            self._note(FINISHED[outcome.finish_reason])

    # --- leaving ---------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Ctrl-C."""
        if self._answering is None or self._stopping is not None:
            self._left.set()
        else:
            self._stopping = asyncio.create_task(self._stop(self._answering))

    async def _stop(self, handle: TurnHandle) -> None:
        try:
            await handle.cancel()
        except CommandRefused as refused:
            self.complain(refused.fault.message)

    async def _or_left(self, work: Coroutine[Any, Any, Value]) -> Value:
        """The result of `work`. Raises _Left when the person leaves first."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise _Left
        finally:
            working.cancel()
            leaving.cancel()

    # --- writing ---------------------------------------------------------------------------------------------------

    def complain(self, sentence: str) -> None:
        self._end_line()
        self._err.print(Text(_printable(sentence), "red"))

    def _introduce(self, chat: ChatConnection) -> None:
        chosen = self._model or chat.welcome["models"][0]
        self._note(f"Turnwire {VERSION} · {chat.url} · model {chosen} · /help")

    def _note(self, text: str) -> None:
        self._end_line()
        self._err.print(Text(_printable(text), "dim"))

    def _end_line(self) -> None:
        if self._mid_line is not None:
            console, self._mid_line = self._mid_line, None
            console.file.write("\n")
            console.file.flush()


@contextmanager
def _interrupts(on_interrupt: Callable[[], None]) -> Generator[None]:
    """Ctrl-C calls `on_interrupt` instead of ending the program, where the system allows that."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, on_interrupt)
    except NotImplementedError:  # Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _new_session() -> str:
    return f"s_{secrets.token_urlsafe(12)}"


def _with_advice(fault: Fault) -> str:
    if fault.retry_after_ms:
        return f"{fault.message} Try again in {fault.retry_after_ms / 1000:.0f} s."
    return f"{fault.message} {ADVICE.get(fault.retry, '')}".strip()


def _printable(text: str) -> str:
    """Control characters become visible: U+001B as ␛, those without a picture of their own as U+FFFD."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or character.isprintable():
        return character
    if character == "\r":  # half of a line's end
        return ""
    if code < 0x20:
        return chr(0x2400 + code)
    # Joiners and spaces of other scripts are no danger; what turns the direction of a line is.
    return "\ufffd" if 0x7F <= code < 0xA0 or character in TURNING else character

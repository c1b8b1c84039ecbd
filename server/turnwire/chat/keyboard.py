"""Lines that a person types, or that a pipe holds, one at a time and without stopping the event loop.

Reading blocks, so each line is read on a thread of its own, which nothing waits for at the end: whoever quits in the
middle of a line leaves it blocked, and the terminal is put back as it was.
"""

import asyncio
import contextlib
import io
import sys
import threading
from collections.abc import Callable
from importlib import import_module

LINE_BYTES_MAX = 480_000
"""A longer line is read in pieces of this size."""


class Keyboard:
    """`line` gives the next line without its end, None at the end of the input. Use as a context."""

    def __init__(self, prompt: str) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._prompt = prompt
        # Unbuffered: a thread that is left blocked must not hold the lock of sys.stdin when Python ends.
        self._pipe = None if self.interactive else io.FileIO(sys.stdin.fileno(), closefd=False)

    def __enter__(self) -> "Keyboard":
        self._restore = _saved_terminal() if self.interactive else lambda: None
        if self.interactive:
            with contextlib.suppress(ImportError):  # not on Windows, whose console edits lines itself
                import_module("readline")  # gives input() line editing and a history
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    async def line(self) -> str | None:
        loop = asyncio.get_running_loop()
        read: asyncio.Future[str | None] = loop.create_future()

        def deliver(line: str | None) -> None:
            if not read.done():
                read.set_result(line)

        def work() -> None:
            line = self._read()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it any more
                loop.call_soon_threadsafe(deliver, line)

        threading.Thread(target=work, name="keyboard", daemon=True).start()
        return await read

    def _read(self) -> str | None:
        if self._pipe is not None:
            line = self._pipe.readline(LINE_BYTES_MAX)
            return line.decode(errors="replace").rstrip("\r\n") if line else None
        try:
            return input(self._prompt)
        except EOFError:
            return None


def _saved_terminal() -> Callable[[], None]:
    """What puts the terminal back as it is now."""
    try:
        import termios
    except ImportError:
        return lambda: None
    place = sys.stdin.fileno()
    saved = termios.tcgetattr(place)
    return lambda: termios.tcsetattr(place, termios.TCSADRAIN, saved)

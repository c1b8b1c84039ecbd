"""The guard of input that the settings name, loaded: an operator's own code, which may refuse turns.

With app.py this is the composition root. What only shows when the module is imported is found here, before the node
takes its first client, and told like any other setting that cannot work.
"""

import asyncio
import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from turnwire.ports import InputGuard, ProposedTurn, Refusal
from turnwire.settings import Settings, SettingsError, named

THREADS_MAX: Final = 32
"""Threads of a guard that is no coroutine function; one that never answers keeps its own."""
TOLD_CHARS_MAX: Final = 200


def load_guard(settings: Settings) -> InputGuard | None:
    """What `input_guard` names; None where it names nothing. Raises SettingsError.

    A coroutine function runs in the node's loop, where nothing else runs until it awaits. Any other callable runs in a
    thread of its own, and holds up nobody else.
    """
    place = settings.input_guard
    if place is None:
        return None
    module_name, _, path = place.partition(":")
    found: Any = _imported(place, module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise _fault(place, f"{module_name} has no {path}")
        found = getattr(found, name)
    if not callable(found):
        raise _fault(place, "that is nothing to call")
    if inspect.isclass(found):
        raise _fault(place, "that is a class: name an instance of it, or a function")
    called: Any = found
    # An object is called as its class says.
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(called).__call__):
        return called
    return _InThreads(called)


class _InThreads:
    """A guard that is no coroutine function. Its threads are daemons: a node that goes down does not wait for them."""

    def __init__(self, guard: Callable[[ProposedTurn], Refusal | None]) -> None:
        self._guard = guard
        self._places = asyncio.Semaphore(THREADS_MAX)

    async def __call__(self, turn: ProposedTurn) -> Refusal | None:
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[tuple[Refusal | None, Exception | None]] = loop.create_future()

        def tell(answer: Refusal | None, error: Exception | None) -> None:
            # The place is free when the thread is: who waited for it may have gone long ago.
            self._places.release()
            if not outcome.done():
                outcome.set_result((answer, error))

        def run() -> None:
            answer, error = None, None
            try:
                answer = self._guard(turn)
            except BaseException as raised:
                error = raised if isinstance(raised, Exception) else RuntimeError(type(raised).__name__)
            with suppress(RuntimeError):  # the loop is closed: the node has ended
                loop.call_soon_threadsafe(tell, answer, error)

        try:
            threading.Thread(target=run, name="input guard", daemon=True).start()
        except RuntimeError:  # the machine has no more of them
            self._places.release()
            raise
        answer, error = await outcome
        if error is not None:
            raise error
        return answer


def _imported(place: str, module_name: str) -> Any:
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        # At the end, so that no file of the folder stands in for an installed module.
        sys.path.append(folder)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise _fault(place, f"there is no module {missing}, here or where Python looks") from error
        told = " ".join(f"{type(error).__name__}: {error}".split())[:TOLD_CHARS_MAX].rstrip(".: ")
        raise _fault(place, f"importing {module_name} failed with {told}") from error


def _fault(place: str, why: str) -> SettingsError:
    return SettingsError(f"{named('input_guard')} is '{place}', but {why}.")

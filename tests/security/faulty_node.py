"""`turnwire serve` with faults planted in it, whose exceptions quote what they were at work on, as exceptions do.

Only for tests: nothing of the server knows of it. A word in what a client sends says where it goes wrong.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import NodeProcess, start_python

IN_RUNNER, IN_COMMAND, IN_CALL, IN_TASK = "fault-runner", "fault-command", "fault-call", "fault-task"


class FaultyNode(NodeProcess):
    """It, as a process."""

    @classmethod
    async def _begin(
        cls, folder: Path, arguments: Sequence[str], environment: Mapping[str, str] | None, cpu: int | None
    ) -> asyncio.subprocess.Process:
        return await start_python(["-m", "tests.security.faulty_node", *arguments], environment, cpu=cpu)


def _plant(owner: Any, name: str, word: str) -> None:
    """Where what is handed over has the word, fail with all of it in the message, twice over."""
    sound = getattr(owner, name)

    def faulty(*arguments: Any, **options: Any) -> Any:
        said = f"{arguments} {options}"
        if word in said:
            try:
                raise KeyError(said)
            except KeyError as error:
                raise ValueError(f"cannot work on {said}") from error
        return sound(*arguments, **options)

    setattr(owner, name, faulty)


def _forgotten(self: Any, command: Any) -> None:
    async def fail(said: str) -> None:
        raise RuntimeError(said)

    if IN_TASK in str(command):
        task = asyncio.get_running_loop().create_task(fail(f"{self} {command}"))
        del task  # whose exception nobody asks for


def main() -> None:
    from turnwire import cli
    from turnwire.runtime import turn_runner
    from turnwire.runtime.backend import Backend

    cancel = Backend.cancel_turn

    def cancel_and_forget(self: Any, owner: Any, by: Any, command: Any) -> Any:
        _forgotten(self, command)
        return cancel(self, owner, by, command)

    setattr(Backend, "cancel_turn", cancel_and_forget)  # noqa: B010 - no method of that class, says the type checker
    _plant(turn_runner, "messages_of", IN_RUNNER)
    _plant(Backend, "cancel_turn", IN_COMMAND)
    _plant(Backend, "update_session", IN_CALL)
    cli.app()


if __name__ == "__main__":
    main()

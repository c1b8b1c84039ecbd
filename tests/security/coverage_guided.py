"""`python -m tests.security.coverage_guided RUNS FOLDER`: fuzzing that sees which lines its inputs reach (atheris).

What it feeds is all that decides about a stranger's message and does no I/O: both codecs and the connection's state
machine. Nothing may be raised but FrameRefused; every answer must be one that the wire knows; and what a codec reads,
it must read again from what it writes of it.
"""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MESSAGES_MAX = 4


def is_installed() -> bool:
    """There are wheels for few machines."""
    return find_spec("atheris") is not None


def run(runs: int, folder: Path, *, seed: int) -> str:
    """So many runs in a process of their own; what it said of them. Raises AssertionError with the failing input."""
    _corpus(folder)
    command = [sys.executable, "-m", "tests.security.coverage_guided", str(runs), str(folder), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4_000:]
    return done.stdout


def _corpus(folder: Path) -> None:
    """Frames that are valid, and those that are known to be bad, as the first inputs."""
    from tests.protocol.bad_frames import TABLE
    from tests.security.fuzz import valid_frames
    from turnwire_protocol.codec import CODECS, JSON

    folder.mkdir(parents=True, exist_ok=True)
    inputs: list[bytes] = []
    for frame in valid_frames(200, 1):
        inputs += [bytes([codec.binary]) + codec.encode(frame) for codec in CODECS.values()]
    for bad in TABLE:
        message = bad.message if isinstance(bad.message, bytes) else bad.message.encode("utf-8", "surrogatepass")
        if len(message) < 2_000:
            inputs.append(bytes([bad.codec is not JSON]) + message)
    for number, data in enumerate(inputs):
        (folder / f"known-{number}").write_bytes(data)


def _target() -> Any:
    """The function that is fed."""
    from pydantic import TypeAdapter

    from turnwire.core.connection import Authenticate, Connection, Grant, Greeting, Send
    from turnwire_protocol.codec import JSON, MSGPACK, Codec, FrameRefused, validate_command
    from turnwire_protocol.events import AnyEvent
    from turnwire_protocol.values import Limits

    limits = Limits(
        frame_bytes_max=4_096,
        input_bytes_max=1_024,
        frames_per_s=100,
        bytes_per_s=100_000,
        sessions_open_max=4,
        turns_running_max=2,
        history_turns_max=5,
    )
    greeting = Greeting(["m"], limits, ping_ms=1_000, terminal_within_ms=1_000, hello_ms=5_000)

    answers: TypeAdapter[Any] = TypeAdapter(AnyEvent)

    def sent(codec: Codec, frame: dict[str, Any]) -> bytes | str:
        encoded = codec.encode(frame)
        return encoded if codec.binary else encoded.decode()

    def feed_one(connection: Connection, codec: Codec, message: bytes | str, now_ms: int) -> None:
        try:
            command = codec.decode_command(message, limits.frame_bytes_max)
        except FrameRefused as refusal:
            effects = connection.refused(refusal, len(message), now_ms)
        else:
            effects = connection.received(command, len(message), now_ms)
            fields = codec.decode_object(message)
            assert validate_command(codec.decode_object(sent(codec, fields))) == command
        for effect in effects:
            if isinstance(effect, Send):
                answers.validate_python(effect.frame)
                codec.decode_object(sent(codec, effect.frame))
            if isinstance(effect, Authenticate):
                connection.authenticated(Grant("u") if effect.token else None, now_ms)

    def feed(data: bytes) -> None:
        if not data:
            return
        codec = MSGPACK if data[0] & 1 else JSON
        connection = Connection("c", greeting, 0)
        if data[0] & 2:
            connection.received(validate_command({"type": "hello"}), 16, 0)
            connection.authenticated(Grant("u"), 0)
        for number, part in enumerate(data[1:].split(b"\x00\xff\x00")[:MESSAGES_MAX]):
            message = part if codec.binary else part.decode("utf-8", "replace")
            feed_one(connection, codec, message, number)
            connection.tick(number)

    return feed


def main() -> None:
    runs, folder, seed = sys.argv[1:4]
    library: Any = import_module("atheris")
    with library.instrument_imports(include=["turnwire_protocol", "turnwire.core"]):
        target = _target()
    options = [f"-runs={runs}", f"-seed={seed}", "-max_len=4096", f"-artifact_prefix={folder}/"]
    library.Setup([sys.argv[0], *options, folder], target)
    library.Fuzz()


if __name__ == "__main__":
    main()

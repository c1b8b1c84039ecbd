"""Logs: what stands in them, and above all what does not."""

import ast
import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from turnwire import telemetry
from turnwire.ports import Failure

SECRET = "my secret prompt"
SERVER = Path(__file__).resolve().parent.parent / "server/turnwire"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's, so it is put back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    telemetry.configure(level, stream)
    return stream


def test_a_program_reads_one_json_object_a_line() -> None:
    stream = configured()
    telemetry.get_log("x").info("turn_left", turn="t1", waited_ms=12)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "turn_left", "level": "info", "turn": "t1", "waited_ms": 12}


def test_a_person_reads_colours() -> None:
    stream = Terminal()
    telemetry.configure("info", stream)
    telemetry.get_log("x").info("turn_left", turn="t1")
    assert "turn_left" in stream.getvalue() and "\x1b[" in stream.getvalue()


def test_a_level_silences_what_is_below_it() -> None:
    stream = configured("warning")
    telemetry.get_log("x").info("turn_left")
    telemetry.get_log("x").warning("turn_lost")
    assert [line["event"] for line in lines(stream)] == ["turn_lost"]


def test_a_field_that_nobody_listed_is_withheld() -> None:
    stream = configured()
    telemetry.get_log("x").info("turn_left", turn="t1", prompt=SECRET, **{SECRET: 1})
    (line,) = lines(stream)
    assert line["withheld"] == f"{SECRET},prompt"
    assert "prompt" not in line and line["turn"] == "t1"


def test_long_and_unprintable_texts_are_made_harmless() -> None:
    stream = configured()
    telemetry.get_log("x").info("turn_left", why="a\r\n\x1b[31m\u202eb", detail="x" * 500, kind=["list"])
    (line,) = lines(stream)
    assert line["why"] == "a\\r\\n\\x1b[31m\\u202eb"
    assert len(line["detail"]) <= 206
    assert line["kind"] == "['list']"


def fail_with(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["json", "console"])
def test_an_exception_is_told_by_type_and_place_and_never_by_its_message(stream: io.StringIO) -> None:
    telemetry.configure("info", stream)
    prompt = SECRET
    try:
        try:
            fail_with(KeyError(prompt))
        except KeyError as error:
            raise ValueError(f"cannot read {prompt}") from error
    except ValueError:
        telemetry.get_log("x").exception("command_failed")
    text = stream.getvalue()
    assert "ValueError" in text and "caused by KeyError" in text
    assert "test_telemetry.py" in text and "fail_with" in text
    assert SECRET not in text


def test_an_exception_from_elsewhere_can_be_handed_over() -> None:
    stream = configured()
    failures = [Failure("store_away", "no reply in 2000 ms"), ConnectionRefusedError(111, "Connection refused")]
    telemetry.get_log("x").error("background_task_failed", exc_info=ExceptionGroup(SECRET, failures))
    (line,) = lines(stream)
    assert "store_away: no reply in 2000 ms" in line["exception"]
    assert "ConnectionRefusedError: Connection refused" in line["exception"]
    assert SECRET not in line["exception"]


def test_a_chain_of_causes_has_an_end() -> None:
    stream = configured()
    error: Exception = ValueError()
    for _ in range(50):
        outer = ValueError()
        outer.__cause__ = error
        error = outer
    telemetry.get_log("x").error("background_task_failed", exc_info=error)
    assert lines(stream)[0]["exception"].count("ValueError") == telemetry.CAUSES_MAX


def test_a_library_is_named_and_not_quoted() -> None:
    stream = configured()
    logging.getLogger("asyncio").error(f"Task exception was never retrieved: {SECRET}")
    logging.getLogger("websockets.server").warning("frame: %s", SECRET)
    logging.getLogger("uvicorn.error").error("Invalid request from %s", SECRET)
    logging.getLogger("redis").info("quiet")
    told = lines(stream)
    assert [line["library"] for line in told] == ["asyncio", "websockets", "uvicorn"]
    assert {line["event"] for line in told} == {"library_line"}
    assert told[0]["place"].startswith("test_telemetry:")
    assert told[2]["text"] == "Invalid request from %s"
    assert SECRET not in stream.getvalue()


def test_a_library_that_warns_of_each_stranger_fills_no_disk() -> None:
    stream = configured()
    for _ in range(1_000):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    written = len(lines(stream))
    assert 0 < written <= telemetry.WARNINGS_BURST + 5
    logging.getLogger("uvicorn.error").error("Errors are always told")
    last = lines(stream)[-1]
    assert (last["level"], last["failures"]) == ("error", 1_000 - written)


def test_uvicorns_access_log_is_off() -> None:
    stream = configured("debug")
    logging.getLogger("uvicorn.access").critical("GET /v1/ws?token=%s", SECRET)
    assert stream.getvalue() == ""


async def test_what_a_forgotten_task_raised_is_not_quoted() -> None:
    stream = configured()
    asyncio.get_running_loop().call_exception_handler({"message": SECRET, "exception": ValueError(SECRET)})
    (line,) = lines(stream)
    assert line["exception"].startswith("ValueError")
    assert SECRET not in stream.getvalue()


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"))):
                    yield f"{path.name}:{node.lineno}", node
                case _:
                    pass


def test_the_server_logs_constant_events_with_listed_fields_only() -> None:
    calls = list(log_calls())
    assert len(calls) > 10
    for place, call in calls:
        match call.args:
            case [ast.Constant(value=str(event))]:
                assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event), place
            case _:
                raise AssertionError(f"{place}: the event is no constant")
        fields = {keyword.arg for keyword in call.keywords} - {"exc_info"}
        assert fields <= telemetry.FIELDS, f"{place}: {fields - telemetry.FIELDS} must be listed in telemetry.FIELDS"

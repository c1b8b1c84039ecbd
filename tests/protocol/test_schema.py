"""The generated files: fit to generate code from, true, and committed as they are generated."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from tests.protocol.generated import commands, create, events, properly
from turnwire_protocol.commands import ANSWERED_BY, COMMAND_TYPES, AnyCommand
from turnwire_protocol.events import NUMBERED_TYPES, AnyEvent
from turnwire_protocol.schema import asyncapi, commands_schema, events_schema, main, models_of, rendered

WHAT_A_CLIENT_SENDS = Draft202012Validator(commands_schema())
WHAT_A_SERVER_SENDS = Draft202012Validator(events_schema())

COMMITTED = Path(__file__).parents[2] / "protocol" / "schema"


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_what_is_committed_is_what_is_generated() -> None:
    assert {path.name for path in COMMITTED.iterdir()} == set(rendered())
    assert main(["--check"]) == 0


def test_the_command_line_writes_all_files_and_then_finds_nothing_stale(tmp_path: Path) -> None:
    directory = tmp_path / "schema"
    command = [sys.executable, "-m", "turnwire_protocol.schema", "--directory", str(directory)]
    for options in ([], ["--check"]):
        subprocess.run([*command, *options], check=True, timeout=60)
    assert {path.name: path.read_text("utf-8") for path in directory.iterdir()} == rendered()


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--directory", str(tmp_path)]) == 0
    (tmp_path / "asyncapi.json").write_text("{}\n")
    (tmp_path / "close-codes.json").unlink()

    assert main(["--check", "--directory", str(tmp_path)]) == 1

    assert "stale: asyncapi.json, close-codes.json; run `make schema`" in capsys.readouterr().err
    assert (tmp_path / "asyncapi.json").read_text() == "{}\n"
    assert not (tmp_path / "close-codes.json").exists()


def test_writing_touches_only_what_is_stale(tmp_path: Path) -> None:
    main(["--directory", str(tmp_path)])
    fresh = (tmp_path / "events.schema.json").stat().st_mtime_ns
    (tmp_path / "asyncapi.json").write_text("{}\n")

    assert main(["--directory", str(tmp_path)]) == 0

    assert (tmp_path / "asyncapi.json").read_text("utf-8") == rendered()["asyncapi.json"]
    assert (tmp_path / "events.schema.json").stat().st_mtime_ns == fresh


@pytest.mark.parametrize("schema", [commands_schema(), events_schema()], ids=["commands", "events"])
def test_a_schema_is_plain_json_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert not any("discriminator" in node for node in nodes(schema))


@pytest.mark.parametrize("schema", [commands_schema(), events_schema()], ids=["commands", "events"])
def test_every_frame_and_variant_is_told_apart_by_a_required_type(schema: dict[str, Any]) -> None:
    """Else generated TypeScript would say `type?:`, and a switch over it would narrow nothing."""
    for union in (node["oneOf"] for node in nodes(schema) if "oneOf" in node):
        members = [schema["$defs"][member["$ref"].removeprefix("#/$defs/")] for member in union]
        kinds = [member["properties"]["type"]["const"] for member in members]
        assert len(set(kinds)) == len(kinds)
        assert all("type" in member["required"] for member in members)
        assert all("default" not in member["properties"]["type"] for member in members)


def test_no_optional_field_of_a_server_frame_may_be_null() -> None:
    for name, definition in events_schema()["$defs"].items():
        for field, described in definition.get("properties", {}).items():
            if {"type": "null"} in described.get("anyOf", ()):
                assert field in definition["required"], f"{name}.{field}"


def test_no_field_has_a_title_of_its_own() -> None:
    """It would become one alias a field in generated TypeScript."""
    for schema in (commands_schema(), events_schema()):
        for definition in schema["$defs"].values():
            assert not any("title" in field for field in definition.get("properties", {}).values())


@properly
@given(commands)
def test_a_command_that_is_made_from_the_schema_fits_it(frame: dict[str, Any]) -> None:
    WHAT_A_CLIENT_SENDS.validate(frame)


@properly
@given(events)
def test_a_server_frame_that_is_made_from_the_schema_fits_it(frame: dict[str, Any]) -> None:
    WHAT_A_SERVER_SENDS.validate(frame)


def test_the_schemas_refuse_what_is_wrong() -> None:
    assert WHAT_A_CLIENT_SENDS.is_valid(create())
    assert not WHAT_A_CLIENT_SENDS.is_valid(create(turn="not an id"))
    assert not WHAT_A_CLIENT_SENDS.is_valid({"session": "s"})
    assert WHAT_A_SERVER_SENDS.is_valid({"type": "pong"})
    assert not WHAT_A_SERVER_SENDS.is_valid({"type": "pong", "reply_to": None})
    assert not WHAT_A_SERVER_SENDS.is_valid({"type": "poing"})


def test_models_are_found_by_their_type() -> None:
    assert set(models_of(AnyCommand)) == COMMAND_TYPES == set(ANSWERED_BY)
    assert set(models_of(AnyEvent)) > NUMBERED_TYPES | set(ANSWERED_BY.values()) | {"error"}


def test_every_reference_of_asyncapi_leads_somewhere() -> None:
    document = asyncapi()
    files = {name: json.loads(text) for name, text in rendered().items()}
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert len(references) > 100
    for reference in references:
        file, _, path = reference.partition("#/")
        target = files[file.removeprefix("./")] if file else document
        for step in path.split("/"):
            target = target[step]
        assert target


def test_asyncapi_says_what_answers_each_command() -> None:
    operations = asyncapi()["operations"]
    told = {
        name.removeprefix("receive-"): [message["$ref"].split("/")[-1] for message in operation["reply"]["messages"]]
        for name, operation in operations.items()
        if operation["action"] == "receive"
    }
    assert told == {command: [answer, "error"] for command, answer in ANSWERED_BY.items()}
    assert len(operations["send-frames"]["messages"]) == len(models_of(AnyEvent))


def test_every_message_is_summed_up() -> None:
    assert all(len(message["summary"]) > 10 for message in asyncapi()["components"]["messages"].values())

"""Writes the schemas of the wire from the models: `python -m turnwire_protocol.schema [--check]`.

Commands are described as a server takes them: what has a default may be absent or null. Server frames are described as
they are sent: an optional field is there with a value, or it is not there, so its type has no null. `type` is required
in both, so that whatever is generated from them (TypeScript, for one) can tell frames apart by it. AsyncAPI says which
frame answers which command, and takes its payloads from the other two files.
"""

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from turnwire_protocol import limits
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import ANSWERED_BY, AnyCommand
from turnwire_protocol.events import AnyEvent
from turnwire_protocol.values import Value

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
COMMANDS_FILE: Final = "commands.schema.json"
EVENTS_FILE: Final = "events.schema.json"
CHANNEL: Final = "wire"


class _Schema(GenerateJsonSchema):
    """Plain JSON Schema: without OpenAPI's `discriminator`, for which each `type` being constant is enough."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        described = super().tagged_union_schema(schema)
        described.pop("discriminator", None)
        return described


class _SentSchema(_Schema):
    """An optional field is never sent as null."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = schema["schema"]
        if schema.get("default") is None and inner["type"] == "nullable":
            return self.generate_inner(cast("core_schema.NullableSchema", inner)["schema"])
        return super().default_schema(schema)


def commands_schema() -> dict[str, Any]:
    """One command, as a client may write it."""
    schema = TypeAdapter[Any](AnyCommand).json_schema(schema_generator=_Schema)
    return {"$schema": DIALECT, "title": "Turnwire v1 commands (client to server)", **schema}


def events_schema() -> dict[str, Any]:
    """One server frame, as it is sent."""
    schema = TypeAdapter[Any](AnyEvent).json_schema(schema_generator=_SentSchema)
    return {"$schema": DIALECT, "title": "Turnwire v1 server frames (server to client)", **schema}


def close_codes() -> dict[str, Any]:
    """Name to number."""
    return {code.name.lower(): int(code) for code in CloseCode}


def models_of(union: Any) -> dict[str, type[Value]]:
    """The members of AnyCommand or AnyEvent by their frame type."""
    members = cast("tuple[type[Value], ...]", get_args(get_args(union)[0]))
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3: the same frames as one channel, with what answers what."""
    commands, events = models_of(AnyCommand), models_of(AnyEvent)
    messages = {kind: _message(kind, model, COMMANDS_FILE) for kind, model in commands.items()}
    messages.update((kind, _message(kind, model, EVENTS_FILE)) for kind, model in events.items())
    channel = {"$ref": f"#/channels/{CHANNEL}"}
    operations: dict[str, Any] = {
        f"receive-{kind}": {
            "action": "receive",
            "channel": channel,
            "messages": [_in_channel(kind)],
            "reply": {"channel": channel, "messages": [_in_channel(ANSWERED_BY[kind]), _in_channel("error")]},
        }
        for kind in commands
    }
    operations["send-frames"] = {
        "action": "send",
        "channel": channel,
        "messages": [_in_channel(kind) for kind in events],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Turnwire",
            "version": "1.0.0",
            "description": "The wire between chat clients and a Turnwire server. docs/protocol.md is normative.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            CHANNEL: {
                "address": "/v1/ws",
                "description": f"A WebSocket. Subprotocols: {limits.SUBPROTOCOL_JSON}, {limits.SUBPROTOCOL_MSGPACK}.",
                "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in messages},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": operations,
        "components": {"messages": messages},
    }


def _message(kind: str, model: type[Value], file: str) -> dict[str, Any]:
    summary = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return {"name": kind, "summary": summary, "payload": {"$ref": f"./{file}#/$defs/{model.__name__}"}}


def _in_channel(kind: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{CHANNEL}/messages/{kind}"}


def rendered() -> dict[str, str]:
    """File name to text, for all that is committed."""
    documents = {
        COMMANDS_FILE: commands_schema(),
        EVENTS_FILE: events_schema(),
        "asyncapi.json": asyncapi(),
        "close-codes.json": close_codes(),
    }
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with --check tell which are stale. 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m turnwire_protocol.schema", description=inspect.getdoc(main))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a committed file is stale")
    parser.add_argument("--directory", type=Path, default=Path(__file__).parents[1] / "schema")
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    stale = [name for name, text in rendered().items() if _content_of(directory / name) != text.encode()]
    if options.check:
        if stale:
            print(f"stale: {', '.join(stale)}; run `make schema` and commit the result", file=sys.stderr)
        return 1 if stale else 0
    directory.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (directory / name).write_bytes(rendered()[name].encode())
    return 0


def _content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())

"""Writes the JSON Schema of the wire from the models: `python -m turnwire_protocol.schema [--check]`.

Commands are described as a client may write them (defaults optional), server frames as they are sent.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import AnyCommand
from turnwire_protocol.events import AnyEvent

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def commands_schema() -> dict[str, Any]:
    schema = TypeAdapter[Any](AnyCommand).json_schema(mode="validation")
    return {"$schema": DIALECT, "title": "Turnwire v1 commands (client to server)", **schema}


def events_schema() -> dict[str, Any]:
    schema = TypeAdapter[Any](AnyEvent).json_schema(mode="validation")
    return {"$schema": DIALECT, "title": "Turnwire v1 server frames (server to client)", **schema}


def close_codes() -> dict[str, Any]:
    return {code.name.lower(): int(code) for code in CloseCode}


def rendered() -> dict[str, str]:
    """File name to text, for all that is committed."""
    documents = {
        "commands.schema.json": commands_schema(),
        "events.schema.json": events_schema(),
        "close-codes.json": close_codes(),
    }
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with --check tell which are stale. 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m turnwire_protocol.schema", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a committed file is stale")
    parser.add_argument("--directory", type=Path, default=Path(__file__).parents[1] / "schema")
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    stale: list[str] = []
    for name, text in rendered().items():
        path = directory / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and options.check:
        print(f"stale: {', '.join(stale)}; run `make schema` and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Frames that Hypothesis makes from the generated JSON Schemas, so that the schemas are held to the models by the way.

Also plain builders of frames for tests that need a certain one.
"""

import re
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from turnwire_protocol.limits import INTEGER_MAX
from turnwire_protocol.schema import commands_schema, events_schema

Json = dict[str, Any]

properly = settings(deadline=None)
"""No deadline for one example: the machine may be busy with something else."""

thoroughly = settings(deadline=None, max_examples=300)

at_length = settings(deadline=None, max_examples=20_000)
"""For `make prove`."""

at_some_length = settings(deadline=None, max_examples=2_000)
"""For `make prove`, where one example is long."""

NASTY = ('"', "\\", "\n", "\x00", "\x7f", "\u2028", "é", "漢", "😀", "</script>", "\\u0000", "\\ud800")

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(-INTEGER_MAX, INTEGER_MAX, allow_nan=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

messages = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)


def _strategy(schema: Json, definitions: Json) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return json_values if name == "JsonValue" else st.deferred(lambda: _strategy(definitions[name], definitions))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return st.one_of([_strategy(member, definitions) for member in schema[union]])
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "string":
            return _strings(schema)
        case "array":
            return st.lists(_strategy(schema["items"], definitions), max_size=min(3, schema.get("maxItems", 3)))
        case "object" if "properties" not in schema:
            return st.dictionaries(texts, json_values, max_size=3)
        case "object":
            fields = {name: _strategy(field, definitions) for name, field in schema["properties"].items()}
            required = {name: fields.pop(name) for name in schema.get("required", [])}
            return st.fixed_dictionaries(required, optional=fields)
        case other:
            raise AssertionError(f"the schema uses {other}, which no frame is made of yet")


def _strings(schema: Json) -> st.SearchStrategy[str]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 100)
    if "pattern" not in schema:
        return texts.filter(lambda text: shortest <= len(text) <= longest)
    pattern = re.compile(schema["pattern"].removeprefix("^").removesuffix("$"), re.ASCII)
    return st.from_regex(pattern, fullmatch=True).filter(lambda text: shortest <= len(text) <= longest)


def _frames(schema: Json) -> dict[str, st.SearchStrategy[Json]]:
    definitions = schema["$defs"]
    frames: dict[str, st.SearchStrategy[Json]] = {}
    for member in schema["oneOf"]:
        name = member["$ref"].removeprefix("#/$defs/")
        frames[definitions[name]["properties"]["type"]["const"]] = _strategy(member, definitions)
    return frames


def _with_one_input(create: Json) -> Json:
    """A turn.create has an input, or `again` and neither input nor parent."""
    if create.get("again") is not None:
        return {name: value for name, value in create.items() if name not in ("input", "parent")}
    return create if create.get("input") else {**create, "input": [said("hello")]}


COMMANDS = _frames(commands_schema())
COMMANDS["turn.create"] = COMMANDS["turn.create"].map(_with_one_input)
EVENTS = _frames(events_schema())

commands = st.one_of(list(COMMANDS.values()))
events = st.one_of(list(EVENTS.values()))


def said(text: str) -> Json:
    """A text input part."""
    return {"type": "text", "text": text}


def create(**more: Any) -> Json:
    """A turn.create with all that it must have."""
    return {"type": "turn.create", "session": "s", "turn": "t", "input": [said("hello")], **more}

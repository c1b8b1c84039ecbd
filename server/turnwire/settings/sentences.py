"""What is wrong with a setting, in a sentence.

Pydantic finds the fault and knows the value; this file says it in the words of the settings' names. Secrets are never
repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

SHOWN_CHARS_MAX: Final = 60

_PLAIN: Final = {
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list of texts",
    "model_type": "must be a table",
    "path_type": "must be a path",
}

AnyModel = TypeVar("AnyModel", bound=BaseModel)
Named = Callable[[list[str]], str]
"""What the field at a path is called, for people."""


class SettingsError(Exception):
    """A setting cannot work; the text is one sentence for whoever starts the server."""


def validated(model: type[AnyModel], values: Mapping[str, Any], named: Named) -> AnyModel:
    """An instance of `model`. Raises SettingsError about the first fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise SettingsError(_sentence(model, fault, named).strip()) from None


def nearest(name: str, known: Sequence[str]) -> str:
    """The way out for who wrote `name`, in words that go on after a semicolon."""
    found = get_close_matches(name, known, 1)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(known)}."


def _sentence(model: type[BaseModel], fault: ErrorDetails, named: Named) -> str:
    steps = [step for step in fault["loc"] if isinstance(step, str)]
    owner = model
    for step in steps[:-1]:
        owner = cast("type[BaseModel]", _kind_of(owner.model_fields[step])[0])
    if fault["type"] == "extra_forbidden":
        known = [name for name, field in owner.model_fields.items() if not field.exclude]
        return f"{named(steps)} is no setting; {nearest(steps[-1], known)}"
    if fault["type"] == "missing":
        return f"{named(steps)} is missing."
    must = _must(fault, owner.model_fields[steps[-1]] if steps else None)
    if not steps:
        return f"{named(steps)} {must.removesuffix('.')}."
    secret = isinstance(fault["input"], SecretStr) or "@" in str(fault["input"])
    shown = "" if secret else f" is {repr(fault['input'])[:SHOWN_CHARS_MAX]}, but"
    return f"{named(steps)}{shown} {must}."


def _must(fault: ErrorDetails, field: FieldInfo | None) -> str:
    """What the value must be, in words that go on after "but"."""
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return reason
    if fault["type"] == "literal_error":
        return f"must be {fault.get('ctx', {})['expected']}"
    kind, metadata = (None, ()) if field is None else _kind_of(field)
    if kind is int:
        bounds = {type(bound).__name__.lower(): bound for bound in metadata}
        return f"must be a whole number from {bounds['ge'].ge} to {bounds['le'].le}"
    if kind is bool:
        return "must be true or false (1 or 0)"
    if fault["type"] in _PLAIN:
        return _PLAIN[fault["type"]]
    return f"must be otherwise: {reason[:1].lower()}{reason[1:]}"


def _kind_of(field: FieldInfo) -> tuple[Any, Sequence[Any]]:
    """A field's type and what it is bound by, also where it may be left out."""
    kind, metadata = field.annotation, list(field.metadata)
    if get_origin(kind) in (Union, UnionType):
        kind = next(kind for kind in get_args(kind) if kind is not type(None))
    while get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        metadata += inner
    bounds = [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return kind, bounds

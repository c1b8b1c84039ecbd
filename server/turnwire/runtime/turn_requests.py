"""From a client's turn.create to what is stored and run: models chosen, inputs found, sizes checked."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from turnwire.core.context import Exchange, likely_tokens, messages_of
from turnwire.core.entries import UsageReport
from turnwire.core.quotas import Used, nano_of
from turnwire.core.turn import cancelled_before_start
from turnwire.ports import AcceptRequest, Model, SessionLog, StoredTurn, TurnKey
from turnwire.runtime.refusals import Refused, TurnMissing
from turnwire.runtime.running_turns import new_nonce
from turnwire.runtime.turn_runner import Spec, has_images
from turnwire_protocol.commands import TurnCreate
from turnwire_protocol.fingerprint import digest_of

PREVIEW_CHARS: Final = 120


class TurnRequests:
    """`input_bytes_max` is of all input parts of a turn, as JSON."""

    def __init__(
        self, log: SessionLog, models: Mapping[str, Model], *, default_model: str, input_bytes_max: int
    ) -> None:
        self._log = log
        self._models = models
        self._default_model = default_model
        self._input_bytes_max = input_bytes_max

    async def of(self, key: TurnKey, author: str, command: TurnCreate) -> tuple[AcceptRequest, Spec]:
        """What is stored of a turn, and what runs it. Raises Refused, Failure."""
        inputs = [part.model_dump(mode="json") for part in command.input]
        parent: Any = "leaf"
        if "parent" in command.model_fields_set:
            parent = "root" if command.parent is None else (command.parent,)
        if command.again is not None:
            earlier = await self._earlier(TurnKey(key.owner, key.session, command.again))
            inputs = [dict(part) for part in Spec.from_json(earlier.spec).input]
            parent = (earlier.parent,) if earlier.parent is not None else "root"
        model = self._chosen_model(command)
        if has_images(inputs) and not model.images:
            raise Refused("unsupported", "This model takes no images.")
        size = sum(len(orjson.dumps(part)) for part in inputs)
        if size > self._input_bytes_max:
            raise Refused("too_large", f"The input has {size} bytes, {self._input_bytes_max} are allowed.")
        tools = [tool.model_dump(mode="json", exclude_none=True) for tool in command.tools or ()]
        spec = Spec(inputs, model.name, dict(command.params or {}), tools, command.response_format)
        body: dict[str, Any] = {"input": inputs, "model": model.name, "author": author}
        if command.again is not None:
            body["again"] = command.again
        request = AcceptRequest(
            key=key,
            nonce=new_nonce(),
            digest=digest_of(command),
            body=orjson.dumps(body),
            spec=spec.to_json(),
            cancelled_body=cancelled_before_start(model.name, {} if model.price is None else {model.name: model.price}),
            parent=parent,
            on_busy=command.on_busy,
            author=author,
            cancel_after_ms=(command.cancel_after_ms or 0) if command.on_disconnect == "cancel" else None,
            preview=_preview_of(inputs),
        )
        return request, spec

    def _chosen_model(self, command: TurnCreate) -> Model:
        name = command.model or self._default_model
        model = self._models.get(name)
        if model is None:
            raise Refused("unsupported", "This server has no model of that name; welcome.models lists them.")
        unknown = sorted(set(command.params or {}) - model.client_params)
        if unknown:
            allowed = ", ".join(sorted(model.client_params)) or "none"
            raise Refused("unsupported", f"A param is not allowed for this model; allowed: {allowed}.")
        return model

    async def _earlier(self, key: TurnKey) -> StoredTurn:
        branch = await self._log.read_branch(key, 1)
        if not branch:
            raise TurnMissing(key.turn, "The turn to answer again does not exist.")
        return branch[0]

    def estimate(self, spec: Spec) -> Used:
        """What a turn is likely to use at most in one step, as far as its own input goes: earlier turns of its branch
        are not looked at."""
        model = self._models[spec.model]
        exchange = Exchange(spec.input)
        messages = messages_of([exchange], model.system_prompt, model.context_tokens, takes_images=model.images)
        report = UsageReport(likely_tokens(messages, spec.tools), model.output_tokens_max)
        cost = 0 if model.price is None else nano_of(model.price.cost_of(report))
        return Used(report.input_tokens + report.output_tokens, cost)


def _preview_of(inputs: Sequence[Mapping[str, Any]]) -> str:
    """How the first text among the inputs begins, whitespace collapsed."""
    text = next((str(part["text"]) for part in inputs if part["type"] == "text"), "")
    # A word has a character at least, so more words than these are not looked at.
    return " ".join(text.split(maxsplit=PREVIEW_CHARS))[:PREVIEW_CHARS]

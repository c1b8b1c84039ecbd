"""The models that the settings name, put together: a provider each, with its limits and its price.

With app.py this is the composition root. What only shows when a file is opened or a price list asked is found here, and
told like any other setting that cannot work.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from turnwire.core.spending import Budget, Price, Rates
from turnwire.ports import Deadlines, Model, Provider, Retries
from turnwire.providers.anthropic_messages import AnthropicMessages
from turnwire.providers.demo import Demo, Variant
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.listed_prices import listed_price
from turnwire.providers.openai_chat import OpenAIChat
from turnwire.providers.openai_responses import OpenAIResponses
from turnwire.providers.recorded import Recorded
from turnwire.providers.recording import Recording
from turnwire.providers.upstream import Upstream
from turnwire.settings import ModelSettings, Settings, SettingsError, named


@dataclass(frozen=True, slots=True)
class Record:
    """Where to write down each exchange with a service, and whether without what people wrote."""

    folder: Path
    redact_prompts: bool = False


@asynccontextmanager
async def open_models(settings: Settings, record: Record | None = None) -> AsyncGenerator[dict[str, Model]]:
    """The configured models, the default first, on one HTTP client. Raises SettingsError."""
    http = _http(settings)
    upstream = http if record is None else _recording(settings, http, record)
    try:
        models = {name: _model(name, table, upstream) for name, table in settings.models.items()}
        _check_budgets(models)
        _check_plans(settings, models)
        yield models
    finally:
        await http.aclose()


def _http(settings: Settings) -> HttpStream:
    ca_file = settings.upstream_ca_file
    try:
        return HttpStream(ca_file=ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = "is no file of certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"{named('upstream_ca_file')} is {str(ca_file)!r}, but: {why}.") from error


def _recording(settings: Settings, http: HttpStream, record: Record) -> Upstream:
    if all(table.provider in ("demo", "recorded") for table in settings.models.values()):
        raise SettingsError("There is nothing to record: none of the models asks a service.")
    try:
        return Recording(http, record.folder, redact_prompts=record.redact_prompts)
    except OSError as error:
        raise SettingsError(f"Exchanges cannot be recorded in {record.folder}: {error.strerror}.") from error


def _provider(name: str, table: ModelSettings, upstream: Upstream) -> Provider:
    if table.provider == "demo":
        variant = table.model.removeprefix("demo").removeprefix("/") or "plain"
        return Demo(cast("Variant", variant))
    recorded = table.recorded
    if recorded is not None:
        if not recorded.folder.is_dir():
            raise SettingsError(
                f"[models.{name}] recorded.folder is '{recorded.folder}', but there is no such folder: "
                "`turnwire record-exchanges` makes one."
            )
        upstream = Recorded(recorded.folder, timed=recorded.timing)
    service: dict[str, Any] = {
        "name": name,
        "base_url": table.base_url,
        "model": table.model,
        "api_key": None if table.key is None else table.key.get_secret_value(),
        "api_version": table.api_version,
        "params": table.params,
    }
    if table.api == "anthropic_messages":
        return AnthropicMessages(upstream, **service)
    speak = OpenAIChat if table.api == "openai_chat" else OpenAIResponses
    return speak(upstream, **service, dialect=table.dialect)


def _model(name: str, table: ModelSettings, upstream: Upstream) -> Model:
    budget = table.turn_budget
    return Model(
        name=name,
        provider=_provider(name, table, upstream),
        fallback=table.fallback,
        system_prompt=table.system_prompt,
        context_tokens=table.context_tokens,
        output_tokens_max=table.output_tokens_max,
        client_params=frozenset(table.client_params),
        images=table.images,
        deadlines=Deadlines(**table.deadlines_ms.model_dump()),
        retries=Retries(**table.retries.model_dump()),
        price=_price(table),
        budget=None if budget is None else Budget(budget.tokens, budget.usd),
    )


def _price(table: ModelSettings) -> Price | None:
    given = table.price_usd_per_million
    if given is not None:
        return Rates(given.input, given.output, given.cached_input)
    return None if table.provider == "demo" else listed_price(table.base_url, table.model)


def _check_budgets(models: Mapping[str, Model]) -> None:
    """Raises SettingsError for a budget of money that could not be held, because a model's price is not known."""
    for model in models.values():
        if model.budget is None or model.budget.usd is None:
            continue
        for name in (model.name, *model.fallback):
            if models[name].price is None:
                raise SettingsError(
                    f"[models.{model.name}] turn_budget limits usd, but nothing says what {name} costs: give it "
                    "price_usd_per_million, or install turnwire[prices], whose list may have it."
                )


def _check_plans(settings: Settings, models: Mapping[str, Model]) -> None:
    """Raises SettingsError for a plan whose money could not be counted. What a demo model says costs nothing."""
    limited = [name for name, plan in settings.plans.items() if plan.plan.counts_money]
    unknown = [m.name for m in models.values() if m.price is None and settings.models[m.name].provider != "demo"]
    if limited and unknown:
        raise SettingsError(
            f"[plans.{limited[0]}] limits usd, but nothing says what {unknown[0]} costs: give it "
            "price_usd_per_million, or install turnwire[prices], whose list may have it."
        )

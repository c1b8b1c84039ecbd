"""The models that settings become: their prices, their limits, and what only shows when a file or a list is opened."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.provider_server import AUTHORITY, ProviderServer, Reply, in_order
from turnwire.core.entries import UsageReport
from turnwire.models import Record, open_models
from turnwire.ports import Failure, Model, StepRequest
from turnwire.settings import ModelSettings, Settings, SettingsError

OPENAI = "https://api.openai.com/v1"


def settings_of(*tables: dict[str, Any], **others: Any) -> Settings:
    models = {f"m{number}": ModelSettings.model_validate(table) for number, table in enumerate(tables)}
    return Settings(models=models, **others)


def chat(**fields: Any) -> dict[str, Any]:
    return {"provider": "openai_chat", "model": "some-model", "base_url": "http://127.0.0.1:9/v1", **fields}


async def opened(settings: Settings) -> dict[str, Model]:
    async with open_models(settings) as models:
        return models


async def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as error:
        await opened(settings)
    return str(error.value)


@pytest.fixture
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)


async def test_every_setting_of_a_table_gets_to_its_model() -> None:
    table = chat(
        system_prompt="Be brief.",
        context_tokens=9_000,
        output_tokens_max=900,
        client_params=("temperature",),
        fallback=("m1",),
        images=True,
        deadlines_ms={"idle": 1_234},
        retries={"attempts_max": 2, "wait_first_ms": 7, "failures_max": 3},
        price_usd_per_million={"input": 1, "output": 2},
        turn_budget={"tokens": 5, "usd": 6},
    )
    model = (await opened(settings_of(table, chat(price_usd_per_million={"input": 1, "output": 2}))))["m0"]
    assert (model.name, model.system_prompt, model.fallback) == ("m0", "Be brief.", ("m1",))
    assert (model.context_tokens, model.output_tokens_max, model.images) == (9_000, 900, True)
    assert model.client_params == {"temperature"}
    assert (model.deadlines.idle, model.deadlines.connect) == (1_234, 5_000)
    assert (model.retries.attempts_max, model.retries.wait_first_ms, model.retries.failures_max) == (2, 7, 3)
    assert model.price is not None and model.price.cost_of(UsageReport(0, 500_000)) == 1
    assert model.budget is not None and (model.budget.tokens, model.budget.usd) == (5, Decimal(6))


async def test_a_demo_costs_nothing_that_anyone_knows_of() -> None:
    models = await opened(Settings())
    assert {model.price for model in models.values()} == {None}


# --- prices of the list ----------------------------------------------------------------------------------------------


async def test_a_well_known_model_has_the_price_of_the_list_and_a_written_one_beats_it() -> None:
    listed = chat(model="gpt-4o", base_url=OPENAI)
    written = {**listed, "price_usd_per_million": {"input": 7, "output": 7}}
    first, second = (await opened(settings_of(listed, written))).values()
    assert first.price is not None and second.price is not None
    assert second.price.cost_of(UsageReport(1_000_000, 0)) == 7
    plain, cached = (first.price.cost_of(UsageReport(1_000_000, 0, number)) for number in (None, 1_000_000))
    assert 0 < cached < plain != 7
    assert first.price.cost_of(UsageReport(10, 0, 20)) < first.price.cost_of(UsageReport(10, 0))


@pytest.mark.parametrize("table", [chat(model="gpt-4o"), chat(model="unheard-of", base_url=OPENAI)])
async def test_a_model_that_the_list_does_not_have_at_that_address_has_no_price(table: dict[str, Any]) -> None:
    assert (await opened(settings_of(table)))["m0"].price is None


@pytest.mark.usefixtures("no_list")
async def test_without_the_list_only_written_prices_are_known() -> None:
    assert (await opened(settings_of(chat(model="gpt-4o", base_url=OPENAI))))["m0"].price is None


# --- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["m0", "m1"])
async def test_a_budget_of_money_needs_the_price_of_every_model_that_may_answer(without: str) -> None:
    priced = {"price_usd_per_million": {"input": 1, "output": 2}}
    tables = [chat(fallback=("m1",), turn_budget={"usd": 1}), chat()]
    for number, table in enumerate(tables):
        if without != f"m{number}":
            table.update(priced)
    sentence = await refusal(settings_of(*tables))
    assert sentence.startswith(f"[models.m0] turn_budget limits usd, but nothing says what {without} costs")
    tables[int(without[1])].update(priced)
    assert len(await opened(settings_of(*tables))) == 2


async def test_there_must_be_something_to_record_and_a_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to record"):
        async with open_models(Settings(), Record(tmp_path)):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be recorded in .*file/in: Not a directory"):
        async with open_models(settings_of(chat()), Record(tmp_path / "file" / "in")):
            pass
    async with open_models(settings_of(chat()), Record(tmp_path / "new" / "folder")) as models:
        assert list(models) == ["m0"]
    assert (tmp_path / "new" / "folder").is_dir()


async def test_recordings_must_be_somewhere(tmp_path: Path) -> None:
    table = chat(provider="recorded", recorded={"provider": "openai_chat", "folder": tmp_path / "none"})
    assert "there is no such folder" in await refusal(settings_of(table))
    table["recorded"]["folder"] = tmp_path
    assert list(await opened(settings_of(table))) == ["m0"]


async def test_an_authority_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path, why in ((missing, "No such file"), (empty, "is no file of certificates in PEM")):
        sentence = await refusal(settings_of(chat(), upstream_ca_file=path))
        assert sentence.startswith(f"TURNWIRE_UPSTREAM_CA_FILE ([models] ca_file) is '{path}', but: ")
        assert why in sentence
    assert await opened(settings_of(chat(), upstream_ca_file=AUTHORITY))


# --- services --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "path", "header"),
    [
        ("openai_chat", "/v1/chat/completions?api-version=2026-10-21", "api-key"),
        ("openai_responses", "/v1/responses?api-version=2026-10-21", "api-key"),
        ("anthropic_messages", "/v1/messages", "x-api-key"),
    ],
)
async def test_each_provider_asks_its_service_as_its_table_says(provider: str, path: str, header: str) -> None:
    async with ProviderServer(in_order(Reply.of_status(400))) as server:
        table = chat(
            provider=provider,
            base_url=server.base_url,
            key="k-1",
            api_version="2026-10-21",
            params={"temperature": 0.5},
            **({} if provider == "anthropic_messages" else {"dialect": "azure"}),
        )
        async with open_models(settings_of(table)) as models:
            with pytest.raises(Failure):
                async with models["m0"].provider.stream(StepRequest([])):
                    pass
        (request,) = server.requests
    assert (request.path, request.headers[header]) == (path, "k-1")
    assert (request.body["model"], request.body["temperature"]) == ("some-model", 0.5)
    assert (request.headers.get("anthropic-version") == "2026-10-21") is (provider == "anthropic_messages")

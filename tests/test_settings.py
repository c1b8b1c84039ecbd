"""Settings: where they come from, what wins, and the one sentence that a wrong one gives."""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from turnwire.core.quotas import UNLIMITED, Plan
from turnwire.settings import DEMO_MODELS, Settings, SettingsError, load
from turnwire.settings.auth import AuthSettings
from turnwire.settings.plans import FOR_USERS
from turnwire.settings.shapes import PLACES


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no turnwire.toml of this folder is read."""
    monkeypatch.chdir(tmp_path)


def loaded(toml: str | None = None, environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    if toml is None:
        return load(None, overrides, environ or {})
    path = Path("given.toml")
    path.write_text(toml, encoding="utf-8")
    return load(path, overrides, environ or {})


def refusal(toml: str | None = None, environ: Mapping[str, str] | None = None, **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(toml, environ, **overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", "?"))
    return sentence


FAST = '[models.fast]\nprovider = "openai_chat"\nmodel = "m-1"\nkey_env = "FAST_KEY"\n'


# --- what wins -----------------------------------------------------------------------------------------------------


def test_without_anything_the_demo_runs_on_loopback() -> None:
    settings = loaded()
    assert (settings.host, settings.port, settings.redis_url, settings.on_loopback) == ("127.0.0.1", 8000, None, True)
    assert tuple(settings.models) == DEMO_MODELS
    assert {model.provider for model in settings.models.values()} == {"demo"}


def test_command_line_beats_environment_beats_file_beats_default() -> None:
    toml = "[server]\nport = 1001\n"
    environ = {"TURNWIRE_PORT": "1002"}
    assert loaded(toml).port == 1001
    assert loaded(toml, environ).port == 1002
    assert loaded(toml, environ, port=1003).port == 1003
    assert loaded(toml, environ, port=None).port == 1002


def test_an_empty_variable_is_not_set() -> None:
    assert loaded(environ={"TURNWIRE_PORT": "", "OPENAI_API_KEY": " ", "TURNWIRE_AUTH": ""}).port == 8000


def test_the_file_in_the_working_folder_is_read_and_another_can_be_named() -> None:
    Path("turnwire.toml").write_text("[server]\nport = 1001\n")
    Path("other.toml").write_text("[server]\nport = 1002\n")
    assert load(None, {}, {}).port == 1001
    assert load(None, {}, {"TURNWIRE_CONFIG": "other.toml"}).port == 1002
    assert load(Path("turnwire.toml"), {}, {"TURNWIRE_CONFIG": "other.toml"}).port == 1001


SAMPLES: dict[str, tuple[object, object]] = {
    "host": ("localhost", "localhost"),
    "allowed_origins": (["https://a.example", "http://b.example:81"], ("https://a.example", "http://b.example:81")),
    "log_level": ("debug", "debug"),
    "trusted_proxies": (["10.0.0.0/8", "::1"], ("10.0.0.0/8", "::1")),
    "data_dir": ("elsewhere", Path("elsewhere")),
    "auth": ("anonymous", "anonymous"),
    "model": ("demo/slow", "demo/slow"),
    "demo_models": (True, True),
    "replicas": (2, 2),
    "upstream_ca_file": ("ca.pem", Path("ca.pem")),
    **dict.fromkeys(("user_plan", "org_plan", "address_plan"), ("free", "free")),
    "input_guard": ("shop.guard:Rules.check", "shop.guard:Rules.check"),
    "input_guard_fails": ("open", "open"),
}


@pytest.mark.parametrize("name", sorted(set(PLACES) - {"redis_url"} - set(AuthSettings.model_fields) | {"auth"}))
def test_every_setting_can_be_given_in_the_file_and_in_the_environment(name: str) -> None:
    default = getattr(Settings(), name)
    given, expected = SAMPLES.get(name, (default + 1 if isinstance(default, int) else None, None))
    expected = given if expected is None else expected
    if name == "command_bytes_max":
        given = expected = default - 1
    section, key = PLACES[name]
    as_toml = str(given).lower() if isinstance(given, bool | int) else str(given).replace("'", '"')
    as_toml = f'"{as_toml}"' if isinstance(given, str) else as_toml
    as_variable = ", ".join(given) if isinstance(given, list) else str(given)

    plans = "[plans.free]\n" if given == "free" else ""
    from_file = loaded(f"{plans}[{section}]\n{key} = {as_toml}\n")
    from_environment = loaded(plans, {f"TURNWIRE_{name.upper()}": as_variable})

    assert getattr(from_file, name) == getattr(from_environment, name) == expected
    assert expected != default


def test_the_places_name_every_setting_and_nothing_else() -> None:
    assert set(PLACES) == set(Settings.model_fields) - {"models", "plans"}
    assert len(set(PLACES.values())) == len(PLACES)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(loaded(), "port", 1)  # noqa: B010 - an assignment would not pass the type checker


# --- one sentence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("PORT", "abc", "'abc', but must be a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("LEASE_MS", "1.5", "a whole number from 1000 to 600000"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("DEMO_MODELS", "perhaps", "true or false"),
        ("ALLOWED_ORIGINS", "*", "must name each origin"),
        ("ALLOWED_ORIGINS", "https://a.example/", "without a path"),
        ("REDIS_URL", "localhost:6379", "must begin with redis://"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "must be addresses or networks such as 10.1.0.0/16"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "must not be everyone"),
        ("AUTH", "nobody", "must be 'anonymous'"),
        ("INPUT_GUARD", "shop.guard", 'must name a module and what to call in it, as in "shop.guard:check"'),
        ("INPUT_GUARD", "../shop:check", "must name a module"),
        ("INPUT_GUARD_FAILS", "perhaps", "must be 'closed' or 'open'"),
        ("RENEW_MS", "9000", "at most half of TURNWIRE_LEASE_MS ([store] lease_ms)"),
        ("COMMAND_BYTES_MAX", "4096", "TURNWIRE_COMMAND_BYTES_MAX ([limits] command_bytes_max)"),
    ],
)
def test_a_wrong_value_is_told_under_both_names_of_its_setting(name: str, value: str, must: str) -> None:
    sentence = refusal(environ={f"TURNWIRE_{name}": value})
    section, key = PLACES[name.lower()]
    assert f"TURNWIRE_{name} ([{section}] {key})" in sentence
    assert must in sentence


@pytest.mark.parametrize("value", ["true", "1.5", '"x"', "[1]"])
def test_a_number_in_the_file_must_be_a_number(value: str) -> None:
    assert "must be a whole number" in refusal(f"[server]\nport = {value}\n")


@pytest.mark.parametrize(
    ("toml", "way_out"),
    [
        ("[server]\nprot = 1\n", "[server] prot in turnwire.toml is no setting; did you mean port?"),
        ("[server]\nqqqqqq = 1\n", "there are host, port,"),
        ("[limits]\nframe_per_s = 1\n", "did you mean frames_per_s?"),
        ("[sever]\nport = 1\n", "did you mean server?"),
        ("port = 1\n", "port, which is no section"),
        ("[models]\nfast = 1\n", "there are default, demo_models"),
        (FAST + "modle = 1\n", "[models.fast] modle is no setting; did you mean model?"),
        (
            FAST + "deadlines_ms = { idel = 5000 }\n",
            "[models.fast] deadlines_ms.idel is no setting; did you mean idle?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(toml: str, way_out: str) -> None:
    assert way_out in refusal(toml, {"FAST_KEY": "k"})


def test_an_unknown_variable_names_the_nearest_known_one() -> None:
    assert (
        refusal(environ={"TURNWIRE_PROT": "1"})
        == "TURNWIRE_PROT is set, but is no setting; did you mean TURNWIRE_PORT?"
    )


def test_a_variable_that_the_file_names_is_known() -> None:
    environ = {"TURNWIRE_STORE": "redis://h/1", "TURNWIRE_FAST_KEY": "k"}
    toml = '[store]\nurl_env = "TURNWIRE_STORE"\n' + FAST.replace("FAST_KEY", "TURNWIRE_FAST_KEY")
    settings = loaded(toml, environ)
    assert settings.redis_url is not None and settings.redis_url.get_secret_value() == "redis://h/1"
    assert settings.models["fast"].key is not None


@pytest.mark.parametrize("content", ["[server", "port = ", "\x00"])
def test_a_file_that_is_no_toml_is_told(content: str) -> None:
    assert "given.toml is not valid TOML" in refusal(content)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml cannot be read \(No such file"):
        load(Path("nowhere.toml"), {}, {})


# --- who may come in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_everyone_is_anonymous_unasked(host: str) -> None:
    assert loaded(host=host).on_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "chat.example.com", "localhost.example.com"])  # noqa: S104 - nothing listens
def test_elsewhere_somebody_must_say_who_may_come_in(host: str) -> None:
    sentence = refusal(host=host)
    assert host in sentence and "TURNWIRE_AUTH ([auth] mode) to api_key or jwt" in sentence
    assert "to anonymous" in sentence and "127.0.0.1" in sentence
    assert not loaded(host=host, environ={"TURNWIRE_AUTH": "anonymous"}).on_loopback


SECRET = "not-a-real-secret-but-of-32-bytes"
SHARED = {"TURNWIRE_AUTH": "jwt", "TURNWIRE_JWT_SECRET": SECRET}
PUBLISHED = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_JWKS_URL": "https://id.example/jwks.json",
    "TURNWIRE_JWT_ISSUER": "https://id.example/",
}


def test_a_shared_secret_and_published_keys_have_algorithms_of_their_own() -> None:
    assert loaded(environ=SHARED).algorithms == ("HS256",)
    assert loaded(environ=PUBLISHED).algorithms == ("RS256", "ES256", "EdDSA")
    assert loaded(environ={**PUBLISHED, "TURNWIRE_JWT_ALGORITHMS": "ES384, PS256"}).algorithms == ("ES384", "PS256")
    assert loaded(environ={"TURNWIRE_AUTH": "api_key"}, host="0.0.0.0").auth == "api_key"  # noqa: S104 - nothing listens


def test_the_file_has_all_of_auth_but_the_secret_which_it_names() -> None:
    toml = (
        '[auth]\nmode = "jwt"\nsecret_env = "SIGNING"\nissuer = "i"\naudience = "a"\n'
        'algorithms = ["HS384"]\nleeway_ms = 5\n'
    )
    settings = loaded(toml, {"SIGNING": SECRET * 2})
    assert settings.jwt_secret is not None and settings.jwt_secret.get_secret_value() == SECRET * 2
    told = (settings.jwt_issuer, settings.jwt_audience, settings.jwt_algorithms, settings.jwt_leeway_ms)
    assert told == ("i", "a", ("HS384",), 5)
    assert settings.masked()["auth"]["secret"] == "***" and SECRET not in f"{settings.masked()} {settings!r}"
    published = loaded('[auth]\nmode = "jwt"\njwks_url = "http://localhost:9/k"\nissuer = "i"\n')
    assert published.jwt_jwks_url == "http://localhost:9/k"


@pytest.mark.parametrize(
    ("environ", "way_out"),
    [
        ({"TURNWIRE_AUTH": "jwt"}, "needs one of TURNWIRE_JWT_SECRET ([auth] secret_env)"),
        ({**SHARED, **PUBLISHED}, "not both"),
        ({**PUBLISHED, "TURNWIRE_JWT_ISSUER": ""}, "name the issuer"),
        ({**SHARED, "TURNWIRE_JWT_SECRET": "hunter2"}, "must have at least 32 bytes"),
        ({**SHARED, "TURNWIRE_JWT_ALGORITHMS": "HS256,HS512"}, "must have at least 64 bytes"),
        ({**SHARED, "TURNWIRE_JWT_ALGORITHMS": "RS256"}, "has RS256, but must be of HS256, HS384, HS512"),
        ({**PUBLISHED, "TURNWIRE_JWT_ALGORITHMS": "HS256"}, "has HS256, but must be of RS256"),
        ({**PUBLISHED, "TURNWIRE_JWT_ALGORITHMS": "none"}, "'none' is none of these"),
        ({**PUBLISHED, "TURNWIRE_JWT_JWKS_URL": "http://id.example/jwks"}, "must be an https address"),
        ({**PUBLISHED, "TURNWIRE_JWT_JWKS_URL": "https://u:hunter2@id.example/jwks"}, "without user or password"),
        ({"TURNWIRE_AUTH": "api_key", "TURNWIRE_JWT_ISSUER": "i"}, "is not jwt, so it would mean nothing"),
        ({"TURNWIRE_JWT_SECRET": SECRET}, "is not jwt, so it would mean nothing"),
    ],
)
def test_what_does_not_fit_together_in_auth_is_told(environ: dict[str, str], way_out: str) -> None:
    sentence = refusal(environ=environ)
    assert way_out in sentence
    assert "hunter2" not in sentence and SECRET not in sentence


def test_a_secret_does_not_belong_into_the_file() -> None:
    sentence = refusal('[auth]\nmode = "jwt"\nsecret = "hunter2"\n')
    assert "TURNWIRE_JWT_SECRET" in sentence and "secret_env" in sentence and "hunter2" not in sentence


# --- models --------------------------------------------------------------------------------------------------------


def test_a_key_alone_gives_a_working_model_and_no_demo() -> None:
    (model,) = loaded(environ={"OPENAI_API_KEY": "sk-1"}).models.values()
    assert model.provider == "openai_chat"
    assert model.base_url == "https://api.openai.com/v1"
    assert model.key is not None and model.key.get_secret_value() == "sk-1"


def test_a_local_server_works_without_a_key() -> None:
    environ = {"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1", "TURNWIRE_MODEL": "llama3.2"}
    settings = loaded(environ=environ)
    assert list(settings.models) == ["llama3.2"]
    assert settings.models["llama3.2"].key is None
    assert settings.models["llama3.2"].base_url == "http://127.0.0.1:11434/v1"


def test_anthropic_s_key_alone_gives_a_working_model_too() -> None:
    (model,) = loaded(environ={"ANTHROPIC_API_KEY": "sk-2"}).models.values()
    assert (model.provider, model.base_url) == ("anthropic_messages", "https://api.anthropic.com")
    assert model.key is not None and model.key.get_secret_value() == "sk-2"
    assert model.images
    environ = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://127.0.0.1:4000", "TURNWIRE_MODEL": "mine"}
    (model,) = loaded(environ=environ).models.values()
    assert (model.model, model.base_url) == ("mine", "http://127.0.0.1:4000")


def test_of_two_keys_each_gives_a_model_and_a_name_chooses_between_them() -> None:
    def models(**environ: str) -> list[tuple[str, str]]:
        keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
        return [(name, model.provider) for name, model in loaded(environ={**keys, **environ}).models.items()]

    anthropic, openai = ("claude-haiku-4-5", "anthropic_messages"), ("gpt-5.4-mini", "openai_chat")
    assert models() == [openai, anthropic]
    assert models(TURNWIRE_MODEL="gpt-x") == [("gpt-x", "openai_chat"), anthropic]
    assert models(TURNWIRE_MODEL="claude-x") == [("claude-x", "anthropic_messages"), openai]


def test_a_table_may_be_of_any_api_and_say_how_its_service_is_asked() -> None:
    toml = (
        '[models.a]\nprovider = "anthropic_messages"\nmodel = "m"\nkey_env = "K"\napi_version = "2026-10-21"\n'
        'params = { thinking = { type = "adaptive" } }\n'
        '[models.r]\nprovider = "openai_responses"\nmodel = "m"\nkey_env = "K"\n'
        '[models.c]\nprovider = "openai_chat"\nmodel = "m"\nbase_url = "https://llm.example/v1"\ndialect = "azure"\n'
    )
    models = loaded(toml, {"K": "k"}).models
    assert (models["a"].base_url, models["a"].api_version) == ("https://api.anthropic.com", "2026-10-21")
    assert models["a"].params == {"thinking": {"type": "adaptive"}}
    assert models["r"].base_url == "https://api.openai.com/v1"
    assert (models["c"].dialect, models["c"].api_version, models["c"].params) == ("azure", None, {})


def test_recorded_answers_may_be_of_any_api_and_keep_its_address() -> None:
    def table(api: str) -> str:
        return f'[models.f]\nprovider = "recorded"\nmodel = "m"\nrecorded = {{ provider = "{api}", folder = "x" }}\n'

    urls = {"anthropic_messages": "https://api.anthropic.com", "openai_responses": "https://api.openai.com/v1"}
    assert {api: loaded(table(api)).models["f"].base_url for api in urls} == urls
    assert {api: loaded(table(api)).models["f"].api for api in urls} == {api: api for api in urls}
    assert "dialect for provider anthropic_messages" in refusal(table("anthropic_messages") + 'dialect = "azure"\n')


@pytest.mark.parametrize(
    ("environ", "way_out"),
    [
        ({"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1"}, "set TURNWIRE_MODEL"),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1/"}, "set OPENAI_API_KEY"),
        (
            {"OPENAI_BASE_URL": "127.0.0.1:11434", "TURNWIRE_MODEL": "m"},
            "OPENAI_BASE_URL is '127.0.0.1:11434', but must",
        ),
        ({"OPENAI_BASE_URL": "http://u:hunter2@h/v1", "TURNWIRE_MODEL": "m"}, "without user or password"),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "ftp://h"}, "ANTHROPIC_BASE_URL is 'ftp://h', but must"),
        ({"TURNWIRE_MODEL": "llama3.2"}, "OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY or a [models.NAME]"),
    ],
)
def test_a_model_that_cannot_be_reached_is_told(environ: dict[str, str], way_out: str) -> None:
    sentence = refusal(environ=environ)
    assert way_out in sentence
    assert "hunter2" not in sentence


def test_demo_models_stand_beside_a_real_one_only_when_asked_for() -> None:
    key = {"OPENAI_API_KEY": "k"}
    assert list(loaded(environ={**key, "TURNWIRE_MODEL": "m"}).models) == ["m"]
    assert list(loaded(environ={**key, "TURNWIRE_MODEL": "m", "TURNWIRE_DEMO_MODELS": "1"}).models) == [
        "m",
        *DEMO_MODELS,
    ]
    assert tuple(loaded(environ={**key, "TURNWIRE_MODEL": "demo"}).models) == DEMO_MODELS


def test_a_demo_variant_can_be_the_default() -> None:
    models = loaded(environ={"TURNWIRE_MODEL": "demo/slow"}).models
    assert next(iter(models)) == "demo/slow"
    assert set(models) == set(DEMO_MODELS)


def test_tables_of_the_file_are_the_models_and_the_environment_chooses_among_them() -> None:
    toml = (
        FAST
        + 'base_url = "https://llm.example/v1"\nsystem_prompt = "Be short."\nfallback = ["careful"]\n'
        + 'client_params = ["temperature"]\ndeadlines_ms = { connect = 4000, total = 90000 }\n'
        + FAST.replace("fast", "careful").replace("m-1", "m-2")
    )
    environ = {"FAST_KEY": "k", "OPENAI_API_KEY": "not-used"}
    settings = loaded(toml, environ)
    fast = settings.models["fast"]
    assert list(settings.models) == ["fast", "careful"]
    assert (fast.model, fast.system_prompt, fast.fallback) == ("m-1", "Be short.", ("careful",))
    assert (fast.deadlines_ms.connect, fast.deadlines_ms.idle, fast.deadlines_ms.total) == (4000, 30_000, 90_000)
    assert list(loaded(toml, {**environ, "TURNWIRE_MODEL": "careful"}).models) == ["careful", "fast"]
    assert list(loaded('[models]\ndefault = "careful"\n' + toml, environ).models) == ["careful", "fast"]


def test_what_a_model_costs_and_may_spend_is_exactly_as_written() -> None:
    toml = (
        FAST
        + "price_usd_per_million = { input = 0.1, cached_input = 0.025, output = 3 }\n"
        + "turn_budget = { tokens = 50000, usd = 0.05 }\nimages = true\n"
        + "retries = { attempts_max = 2, budget_percent = 0 }\n"
    )
    fast = loaded(toml, {"FAST_KEY": "k"}).models["fast"]
    price, budget = fast.price_usd_per_million, fast.turn_budget
    assert price is not None and budget is not None
    assert (price.input, price.cached_input, price.output) == (Decimal("0.1"), Decimal("0.025"), Decimal(3))
    assert (budget.tokens, budget.usd) == (50_000, Decimal("0.05"))
    assert (fast.images, fast.retries.attempts_max, fast.retries.budget_percent) == (True, 2, 0)
    assert (fast.retries.wait_first_ms, fast.retries.failures_max) == (500, 5)


def test_images_are_taken_where_that_is_known_and_elsewhere_if_the_file_says_so() -> None:
    assert loaded(environ={"OPENAI_API_KEY": "k"}).models["gpt-5.4-mini"].images
    elsewhere = {"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1", "TURNWIRE_MODEL": "m"}
    assert not loaded(environ=elsewhere).models["m"].images
    assert not loaded(FAST, {"FAST_KEY": "k"}).models["fast"].images
    assert all(model.images for model in loaded().models.values())


@pytest.mark.parametrize(
    ("toml", "way_out"),
    [
        ('[models]\ndefault = "fsat"\n' + FAST, "must be one of fast"),
        (FAST + 'key = "sk-hunter2"\n', "put the key into the environment"),
        (FAST + 'api_key = "sk-hunter2"\n', 'key_env = "OPENAI_API_KEY"'),
        (FAST.replace("FAST_KEY", "NO_KEY"), "names the variable NO_KEY, which is not set"),
        (FAST.replace('key_env = "FAST_KEY"\n', ""), "needs a key for https://api.openai.com/v1"),
        ('[models.a]\nprovider = "anthropic_messages"\nmodel = "m"\n', "needs a key for https://api.anthropic.com"),
        (FAST + 'dialect = "klingon"\n', "[models.fast] dialect is 'klingon', but must be 'common', 'openai', 'azure'"),
        (
            FAST.replace("openai_chat", "anthropic_messages") + 'dialect = "azure"\n',
            "must have no dialect for provider anthropic_messages",
        ),
        (FAST + 'api_version = "a b"\n', "[models.fast] api_version is 'a b', but must"),
        (FAST + "params = { store = true, stream = false }\n", "what the server itself decides: store, stream"),
        (
            FAST.replace("openai_chat", "openai"),
            "provider is 'openai', but must be 'openai_chat', 'openai_responses', 'anthropic_messages', 'demo' or",
        ),
        (FAST.replace('model = "m-1"\n', ""), "[models.fast] model is missing"),
        (FAST + 'fallback = ["careful"]\n', "fallback names 'careful', but must name other models"),
        (FAST + 'fallback = ["fast"]\n', "must name other models"),
        (FAST + 'client_params = ["temperature", "messages"]\n', "what the server itself decides: messages"),
        (
            FAST + 'context_tokens = "many"\n',
            "[models.fast] context_tokens is 'many', but must be a whole number from 256",
        ),
        (FAST + "deadlines_ms = { idle = 1 }\n", "[models.fast] deadlines_ms.idle is 1, but must be a whole number"),
        (FAST + "deadlines_ms = 5\n", "[models.fast] deadlines_ms is 5, but must be a table"),
        (FAST + "images = 2\n", "[models.fast] images is 2, but must be true or false"),
        (FAST + "output_tokens_max = 200000\n", "less output_tokens_max (200000) than context_tokens (128000)"),
        (FAST + "context_tokens = 2048\n", "less output_tokens_max (4096) than context_tokens (2048)"),
        (
            FAST + "retries = { attempts_max = 11 }\n",
            "attempts_max is 11, but must be a whole number from 1 to 10.",
        ),
        (FAST + "retries = { attempts = 2 }\n", "retries.attempts is no setting; did you mean attempts_max?"),
        (FAST + "price_usd_per_million = { input = 1 }\n", "[models.fast] price_usd_per_million.output is missing."),
        (
            FAST + 'price_usd_per_million = { input = "dear", output = 1 }\n',
            "price_usd_per_million.input is 'dear', but must be a number of dollars from 0 to 1000000.",
        ),
        (FAST + "price_usd_per_million = { input = -1, output = 1 }\n", "must be a number of dollars"),
        (FAST + "price_usd_per_million = { input = true, output = 1 }\n", "must be a number of dollars"),
        (FAST + "price_usd_per_million = { input = nan, output = 1 }\n", "must be a number of dollars"),
        (
            FAST + "price_usd_per_million = { input = 1, output = 1, cached = 1 }\n",
            "price_usd_per_million.cached is no setting; did you mean cached_input?",
        ),
        (FAST.replace("openai_chat", "recorded"), 'recorded = { provider = "…", folder = "…" } where its provider is'),
        (FAST + 'recorded = { provider = "openai_chat", folder = "f" }\n', "and only there"),
        (FAST + 'recorded = { folder = "f" }\n', "[models.fast] recorded.provider is missing."),
        (FAST + "turn_budget = {}\n", "[models.fast] turn_budget is {}, but must have tokens, usd or both."),
        (
            FAST + "turn_budget = { tokens = 0 }\n",
            "turn_budget.tokens is 0, but must be a whole number from 1 to 1000000000.",
        ),
        (FAST + "turn_budget = { usd = -1 }\n", "turn_budget.usd is -1, but must be a number of dollars"),
        (FAST.replace("models.fast", "models.demo"), "belongs to a demo model"),
        ('[models.fast]\nprovider = "demo"\nmodel = "demo/quick"\n', "must have as model one of demo, demo/slow"),
        (FAST.replace("models.fast", f"models.{'x' * 129}"), "a name of 1 to 128 characters"),
        (
            "".join(FAST.replace("fast", f"m{number}") for number in range(65)),
            "65 [models.NAME] tables, 64 are allowed",
        ),
    ],
)
def test_a_wrong_model_table_is_told(toml: str, way_out: str) -> None:
    sentence = refusal(toml, {"FAST_KEY": "k"})
    assert way_out in sentence
    assert "hunter2" not in sentence


# --- secrets -------------------------------------------------------------------------------------------------------


def test_a_stores_address_does_not_belong_into_the_file() -> None:
    sentence = refusal('[store]\nurl = "redis://:hunter2@h"\n')
    assert "TURNWIRE_REDIS_URL" in sentence and "url_env" in sentence and "hunter2" not in sentence


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://me:hunter2@h:6379/0", "rediss://me:***@h:6379/0"),
        ("redis://h/0?password=hunter2", "redis://h/0?***"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_masked_shows_where_the_store_is_and_no_password(url: str, shown: str) -> None:
    settings = loaded(environ={"TURNWIRE_REDIS_URL": url, "OPENAI_API_KEY": "sk-hunter2"})
    assert settings.masked()["store"]["url"] == shown
    assert settings.masked()["models"]["gpt-5.4-mini"]["key"] == "***"
    assert "hunter2" not in f"{settings.masked()} {settings!r} {settings}"


def test_masked_shows_every_setting_in_its_section() -> None:
    shown = loaded(FAST, {"FAST_KEY": "k"}).masked()
    expected = {(section, key.removesuffix("_env")) for section, key in PLACES.values()}
    assert {(section, key) for section, keys in shown.items() for key in keys} == expected | {("models", "fast")}
    assert shown["models"]["default"] == "fast"


def test_the_documented_bounds_are_the_ones_that_sentences_name() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is int:
            sentence = refusal(environ={f"TURNWIRE_{name.upper()}": "x"})
            low, high = map(int, re.findall(r"from (\d+) to (\d+)", sentence)[0])
            assert low <= field.default <= high


# --- plans ---------------------------------------------------------------------------------------------------------

PLANS = """
[plans.free]
turns_per_minute = 10
tokens_per_day = 20_000
usd_per_month = 0.1
upgrade_url = "https://example.com/upgrade"
[plans.team]
turns_running = 50
[limits]
user_plan = "free"
org_plan = "team"
"""


def test_plans_hold_for_those_they_are_chosen_for() -> None:
    plans = loaded(PLANS).plans_of(asks=True)
    free = Plan(
        turns_per_minute=10,
        tokens_per_day=20_000,
        usd_per_month=100_000_000,
        upgrade_url="https://example.com/upgrade",
    )
    assert plans.of("user", None) == plans.of("org", "free") == free
    assert plans.of("org", None) == Plan(turns_running=50)
    assert plans.of("address", None) == UNLIMITED
    assert "upgrade_url" in loaded(PLANS).masked()["plans"]["free"]


def test_without_a_plan_users_who_are_told_apart_have_limits_and_everyone_as_one_has_none() -> None:
    assert loaded().plans_of(asks=True).of("user", None) == FOR_USERS
    assert loaded().plans_of(asks=False).of("user", None) == UNLIMITED


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[plans.free]\nturns_per_hour = 1", "[plans.free] turns_per_hour is no setting"),
        ("[plans.free]\ntokens_per_day = -1", "[plans.free] tokens_per_day is -1, but must be a whole number"),
        ('[plans.free]\nusd_per_day = "much"', "[plans.free] usd_per_day"),
        ('[plans.free]\nupgrade_url = "javascript:alert(1)"', "[plans.free] upgrade_url"),
        ("[plans]\nfree = 3", "[plans] free is no table"),
        (f"[plans.{'x' * 200}]", "must have a name of 1 to"),
        ('[limits]\nuser_plan = "none"', "must name a [plans.NAME] table; there are: none yet"),
    ],
)
def test_a_plan_that_cannot_hold_stops_the_start(toml: str, words: str) -> None:
    assert words in refusal(toml)

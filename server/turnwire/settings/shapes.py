"""The settings as frozen values, with their bounds, and where each of them stands.

Nothing is read here. What must hold between several settings is checked here too, so that no Settings exists that
could not work.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, SecretStr, StringConstraints, field_validator, model_validator

from turnwire.identity.origins import fault_of_origin
from turnwire.providers.openai_chat_dialects import DialectName
from turnwire.settings.auth import AuthSettings, fault_of_auth, is_loopback
from turnwire.settings.door import DoorSettings
from turnwire.settings.guard import GuardSettings
from turnwire.settings.kinds import Count, Frozen, Millis, Texts, Whole
from turnwire.settings.model_tables import (
    BudgetSettings,
    DeadlineSettings,
    PriceSettings,
    RecordedSettings,
    RetrySettings,
)
from turnwire.settings.plans import PlanChoices
from turnwire_protocol import limits

STORE_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
OPENAI_URL: Final = "https://api.openai.com/v1"
ANTHROPIC_URL: Final = "https://api.anthropic.com"

DEMO_MODELS: Final = (
    "demo",
    "demo/slow",
    "demo/error-before",
    "demo/error-after",
    "demo/stall",
    "demo/long",
    "demo/tool",
    "demo/reasoning",
)
FIXED_PARAMS: Final = frozenset(
    [
        *("messages", "model", "n", "response_format", "stream", "stream_options", "tools"),
        *("system",),
        *("background", "conversation", "input", "instructions", "previous_response_id", "store"),
    ]
)
"""Fields of an upstream request that the server itself decides: of chat completions, messages, responses."""


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=limits.NAME_CHARS_MAX)]


class ModelSettings(Frozen):
    """One model that clients may choose. For provider `demo`, `model` is one of DEMO_MODELS."""

    provider: Literal["openai_chat", "openai_responses", "anthropic_messages", "demo", "recorded"]
    model: ModelName
    base_url: str = OPENAI_URL
    """Unless it is given: Anthropic's for its API."""
    api_version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    dialect: DialectName | None = None
    """None: the host's."""
    system_prompt: Annotated[str, StringConstraints(max_length=200_000)] | None = None
    key_env: str | None = None
    key: SecretStr | None = Field(default=None, exclude=True)
    """The value of the variable that `key_env` names."""
    context_tokens: Annotated[Whole, Field(ge=256, le=100_000_000)] = 128_000
    output_tokens_max: Annotated[Whole, Field(ge=1, le=10_000_000)] = 4_096
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Sent with every request, unless a client may set and does set another value."""
    client_params: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    images: bool = False
    deadlines_ms: DeadlineSettings = DeadlineSettings()
    retries: RetrySettings = RetrySettings()
    price_usd_per_million: PriceSettings | None = None
    turn_budget: BudgetSettings | None = None
    recorded: RecordedSettings | None = None
    """Of provider `recorded`; all else in the table must be as it was when the exchanges were recorded."""

    @property
    def api(self) -> str:
        """Which provider asks or, of a recorded one, asked."""
        return self.provider if self.recorded is None else self.recorded.provider

    @model_validator(mode="before")
    @classmethod
    def _with_an_address_of_its_own(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        table = cast("dict[str, Any]", value)
        asked = table.get("recorded") if table.get("provider") == "recorded" else table
        if isinstance(asked, dict) and cast("dict[str, Any]", asked).get("provider") == "anthropic_messages":
            return {"base_url": ANTHROPIC_URL, **table}
        return table

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise ValueError("must be an http or https address without user or password")
        return value

    @field_validator("params", "client_params")
    @classmethod
    def _free_params(cls, value: dict[str, JsonValue] | tuple[str, ...]) -> dict[str, JsonValue] | tuple[str, ...]:
        if fixed := sorted(FIXED_PARAMS & set(value)):
            raise ValueError(f"must leave out what the server itself decides: {', '.join(fixed)}")
        return value

    @model_validator(mode="after")
    def _demo_is_known(self) -> Self:
        if self.provider == "demo" and self.model not in DEMO_MODELS:
            raise ValueError(f"must have as model one of {', '.join(DEMO_MODELS)}")
        return self

    @model_validator(mode="after")
    def _is_recorded_somewhere(self) -> Self:
        if (self.provider == "recorded") != (self.recorded is not None):
            raise ValueError(
                'must have recorded = { provider = "…", folder = "…" } where its provider is "recorded", and only there'
            )
        return self

    @model_validator(mode="after")
    def _speaks_a_dialect(self) -> Self:
        if self.dialect is not None and self.api not in ("openai_chat", "openai_responses"):
            raise ValueError(f"must have no dialect for provider {self.api}: only OpenAI's APIs have any")
        return self

    @model_validator(mode="after")
    def _leaves_room_for_a_context(self) -> Self:
        if self.output_tokens_max >= self.context_tokens:
            raise ValueError(
                f"must have less output_tokens_max ({self.output_tokens_max}) than context_tokens "
                f"({self.context_tokens}): a question needs its part of these"
            )
        return self


_NOBODY_TO_SPARE: Final = RetrySettings(budget_percent=1_000, failures_max=0)
"""A demo model that always fails is to show it each time in the same way."""


def demo_tables() -> dict[str, ModelSettings]:
    """The demo models, by name."""
    return {
        name: ModelSettings(provider="demo", model=name, images=True, retries=_NOBODY_TO_SPARE) for name in DEMO_MODELS
    }


class Settings(AuthSettings, DoorSettings, PlanChoices, GuardSettings):
    """All settings of one node. `models` holds what clients may choose; the first of them is the default."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65_535)] = 8_000
    workers: Annotated[Whole, Field(ge=1, le=64)] = 1
    allowed_origins: Texts = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_ms: Annotated[Whole, Field(ge=0, le=3_600_000)] = 30_000
    hello_ms: Millis = 5_000
    ping_ms: Annotated[Whole, Field(ge=1_000, le=3_600_000)] = 20_000
    send_timeout_ms: Millis = 10_000

    data_dir: Path = Path("data")
    redis_url: SecretStr | None = None
    replicas: Annotated[Whole, Field(ge=0, le=16)] | None = None
    """How many replicas of the store a terminal is to reach before it is shown; None: one where there are Sentinels."""
    lease_ms: Annotated[Whole, Field(ge=1_000, le=600_000)] = 10_000
    renew_ms: Millis = 3_000
    sweep_ms: Millis = 2_000
    store_grace_ms: Annotated[Whole, Field(ge=0, le=600_000)] = 30_000

    frames_per_s: Count = 100
    bytes_per_s: Annotated[Whole, Field(ge=1_024, le=1_000_000_000)] = 1_048_576
    sessions_open_max: Count = 64
    turns_running_max: Count = 16
    command_bytes_max: Annotated[Whole, Field(ge=4_096, le=limits.COMMAND_BYTES_MAX)] = limits.COMMAND_BYTES_MAX
    input_bytes_max: Annotated[Whole, Field(ge=1_024, le=limits.COMMAND_BYTES_MAX)] = limits.INPUT_PART_BYTES_MAX
    input_wait_ms: Annotated[Whole, Field(ge=1_000, le=604_800_000)] = 3_600_000

    model: ModelName | None = None
    demo_models: bool = False
    upstream_ca_file: Path | None = None
    models: dict[str, ModelSettings] = Field(default_factory=demo_tables, min_length=1)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @field_validator("allowed_origins")
    @classmethod
    def _whole_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if (fault := fault_of_origin(origin)) is not None:
                raise ValueError(fault)
        return value

    @field_validator("redis_url")
    @classmethod
    def _store_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in STORE_SCHEMES:
            raise ValueError(f"must begin with {', '.join(f'{scheme}://' for scheme in STORE_SCHEMES)}")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.auth is None and not self.on_loopback:
            raise ValueError(
                f"{named('host')} is {self.host}, which other machines can reach, and nothing says who may come in: "
                f"set {named('auth')} to api_key or jwt (docs/security.md), to anonymous if everyone who gets there "
                "may be one and the same user, or keep to 127.0.0.1."
            )
        if (fault := fault_of_auth(self, named)) is not None:
            raise ValueError(fault)
        if self.renew_ms * 2 > self.lease_ms:
            raise ValueError(
                f"{named('renew_ms')} is {self.renew_ms}, but must be at most half of {named('lease_ms')}, which is "
                f"{self.lease_ms}: a lease that is renewed once and late would already be lost."
            )
        if self.sweep_ms * 3 > self.lease_ms:
            raise ValueError(
                f"{named('sweep_ms')} is {self.sweep_ms}, but must be at most a third of {named('lease_ms')}, which is "
                f"{self.lease_ms}: a node that looks so rarely cannot tell a store that was away from a node that died."
            )
        for name in ("user_plan", "org_plan", "address_plan"):
            chosen: str | None = getattr(self, name)
            if chosen is not None and chosen not in self.plans:
                known = ", ".join(self.plans) or "none yet"
                raise ValueError(
                    f"{named(name)} is {chosen!r}, but must name a [plans.NAME] table; there are: {known}."
                )
        if self.input_bytes_max > self.command_bytes_max:
            raise ValueError(
                f"{named('input_bytes_max')} is {self.input_bytes_max}, but must be at most "
                f"{named('command_bytes_max')}, which is {self.command_bytes_max}: the input travels in a command."
            )
        return self

    def masked(self) -> dict[str, dict[str, Any]]:
        """Every setting with its effective value, by section as in turnwire.toml, fit to be shown."""
        shown: dict[str, dict[str, Any]] = {}
        for name, (section, key) in PLACES.items():
            shown.setdefault(section, {})[key] = getattr(self, name)
        shown["store"]["url"] = _masked_url(self.redis_url)
        del shown["store"]["url_env"]
        shown["auth"]["secret"] = None if self.jwt_secret is None else "***"
        del shown["auth"]["secret_env"]
        if self.plans:
            shown["plans"] = {name: table.model_dump(exclude_none=True) for name, table in self.plans.items()}
        shown["models"]["default"] = next(iter(self.models))
        for name, table in self.models.items():
            unused = {"base_url"} if table.provider == "demo" else set[str]()
            secret = {} if table.key is None else {"key": "***"}
            shown["models"][name] = {**table.model_dump(exclude_none=True, exclude=unused), **secret}
        return shown


PLACES: Final[dict[str, tuple[str, str]]] = {
    **{name: ("server", name) for name in ("host", "port", "workers", "allowed_origins", "log_level", "drain_ms")},
    **{name: ("server", name) for name in ("hello_ms", "ping_ms", "send_timeout_ms")},
    **{name: ("store", name) for name in ("data_dir", "replicas", "lease_ms", "renew_ms", "sweep_ms")},
    "redis_url": ("store", "url_env"),
    "store_grace_ms": ("store", "grace_ms"),
    "auth": ("auth", "mode"),
    "jwt_secret": ("auth", "secret_env"),
    **{f"jwt_{key}": ("auth", key) for key in ("jwks_url", "issuer", "audience", "algorithms", "leeway_ms")},
    **{name: ("limits", name) for name in ("frames_per_s", "bytes_per_s", "sessions_open_max", "turns_running_max")},
    "trusted_proxies": ("server", "trusted_proxies"),
    **{name: ("limits", name) for name in ("connections_max", "connections_per_address_max", "accepts_per_s")},
    **{name: ("limits", name) for name in ("command_bytes_max", "input_bytes_max", "input_wait_ms")},
    **{name: ("limits", name) for name in ("user_plan", "org_plan", "address_plan")},
    **{name: ("limits", name) for name in ("input_guard", "input_guard_ms", "input_guard_fails")},
    "model": ("models", "default"),
    "demo_models": ("models", "demo_models"),
    "upstream_ca_file": ("models", "ca_file"),
}
"""Where each setting stands in turnwire.toml: (section, key). In the environment it is TURNWIRE_ and its name."""


def named(name: str) -> str:
    """Both names of a setting."""
    section, key = PLACES[name]
    return f"TURNWIRE_{name.upper()} ([{section}] {key})"


def _masked_url(url: SecretStr | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url.get_secret_value())
    user, _, place = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:***@{place}" if user else place
    return f"{parts.scheme}://{netloc}{parts.path}{'?***' if parts.query else ''}"

"""Where settings come from: command line, environment, turnwire.toml. This is the only file that reads them."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from pydantic import SecretStr

from turnwire.settings.plans import PlanSettings
from turnwire.settings.sentences import SettingsError, nearest, validated
from turnwire.settings.shapes import (
    ANTHROPIC_URL,
    DEMO_MODELS,
    OPENAI_URL,
    PLACES,
    ModelSettings,
    Settings,
    demo_tables,
    named,
)
from turnwire_protocol import limits

CONFIG_NAME: Final = "turnwire.toml"
"""Read from the working folder when nobody names another file."""

OPENAI_MODEL: Final = "gpt-5.4-mini"
"""What OPENAI_API_KEY alone gives: small, and generally available."""

ANTHROPIC_MODEL: Final = "claude-haiku-4-5"
"""What ANTHROPIC_API_KEY alone gives, likewise."""

MODEL_TABLES_MAX: Final = 64
_OWN_URLS: Final = {
    "openai_chat": OPENAI_URL,
    "openai_responses": OPENAI_URL,
    "anthropic_messages": ANTHROPIC_URL,
}
"""Where a table's requests go when it does not say, and which wants a key."""

SECRET_NAMES: Final = frozenset(["redis_url", "jwt_secret"])
_SECRET_PLACES: Final = frozenset(PLACES[name] for name in SECRET_NAMES)
"""A file names the variable that holds such a value: an address may hold a password."""

_BY_PLACE: Final = {place: name for name, place in PLACES.items()}
_BY_VARIABLE: Final = {f"TURNWIRE_{name.upper()}": name for name in PLACES}


def load(
    config_path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The effective settings. `overrides` are the command line's, by field name; None there means not given.

    Raises SettingsError.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    file = _read_file(config_path, given)
    values = file.values | {name: given[variable] for variable, name in _BY_VARIABLE.items() if variable in given}
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    _refuse_unknown_variables(given, file.variables)
    for name in SECRET_NAMES & values.keys():
        values[name] = SecretStr(str(values[name]))
    values["plans"] = {name: _plan(name, table) for name, table in file.plans.items()}
    settings = validated(Settings, values, lambda steps: named(steps[0]) if steps else "")
    return settings.model_copy(update={"models": _models(settings, file.tables, given)})


# --- turnwire.toml and the environment -----------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """What a file says: plain settings by field name, tables of models and plans, and the variables that it names."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    plans: dict[str, Any] = field(default_factory=dict[str, Any])
    variables: set[str] = field(default_factory=set[str])


def _read_file(path: Path | None, given: Mapping[str, str]) -> _File:
    path = path or (Path(given["TURNWIRE_CONFIG"]) if "TURNWIRE_CONFIG" in given else None)
    file = _File()
    if path is None and not Path(CONFIG_NAME).exists():
        return file
    path = path or Path(CONFIG_NAME)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); --config or TURNWIRE_CONFIG name it.") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None
    sections = sorted({section for section, _ in PLACES.values()} | {"plans"})
    for section, table in content.items():
        if section not in sections or not isinstance(table, dict):
            raise SettingsError(f"{path} has {section}, which is no section; {nearest(section, sections)}")
        if section == "plans":
            file.plans = cast("dict[str, Any]", table)
        else:
            _read_section(file, section, cast("dict[str, Any]", table), given)
    return file


def _plan(name: str, table: Any) -> PlanSettings:
    if not isinstance(table, dict):
        raise SettingsError(f"[plans] {name} is no table: a plan is one, as in [plans.{name}].")
    if not 0 < len(name) <= limits.NAME_CHARS_MAX:
        raise SettingsError(f"[plans.{name[:16]}…] must have a name of 1 to {limits.NAME_CHARS_MAX} characters.")
    return validated(PlanSettings, cast("dict[str, Any]", table), lambda steps: f"[plans.{name}] {'.'.join(steps)}")


def _read_section(file: _File, section: str, table: dict[str, Any], given: Mapping[str, str]) -> None:
    for key, value in table.items():
        if section == "models" and isinstance(value, dict):
            file.tables[key] = cast("dict[str, Any]", value)
            file.variables.add(str(file.tables[key].get("key_env")))
        elif (section, key) in _SECRET_PLACES:
            file.variables.add(str(value))
            file.values[_BY_PLACE[section, key]] = _variable(str(value), f"[{section}] {key}", given)
        elif (section, f"{key}_env") in _SECRET_PLACES:
            variable = f"TURNWIRE_{_BY_PLACE[section, f'{key}_env'].upper()}"
            raise SettingsError(
                f"[{section}] {key} is refused, because a file is read by many and this may hold a secret: set it in "
                f"the environment as {variable}, or name the variable that holds it with {key}_env."
            )
        elif (section, key) in _BY_PLACE:
            file.values[_BY_PLACE[section, key]] = value
        else:
            known = [place[1] for place in PLACES.values() if place[0] == section]
            raise SettingsError(f"[{section}] {key} in {CONFIG_NAME} is no setting; {nearest(key, known)}")


def _variable(variable: str, named_by: str, given: Mapping[str, str]) -> str:
    if variable not in given:
        raise SettingsError(f"{named_by} names the variable {variable}, which is not set: set it, or drop {named_by}.")
    return given[variable]


def _refuse_unknown_variables(given: Mapping[str, str], named: set[str]) -> None:
    known = {*_BY_VARIABLE, "TURNWIRE_CONFIG", "TURNWIRE_TOKEN"}
    for name in sorted(given):
        if name.startswith("TURNWIRE_") and name not in known | named:
            raise SettingsError(f"{name} is set, but is no setting; {nearest(name, sorted(known))}")


# --- models --------------------------------------------------------------------------------------------------------


def _models(
    settings: Settings, tables: Mapping[str, dict[str, Any]], given: Mapping[str, str]
) -> dict[str, ModelSettings]:
    """All models by name, the default first."""
    chosen = settings.model
    if len(tables) > MODEL_TABLES_MAX:
        raise SettingsError(f"{CONFIG_NAME} has {len(tables)} [models.NAME] tables, {MODEL_TABLES_MAX} are allowed.")
    if tables:
        models = {name: _table_model(name, table, given) for name, table in tables.items()}
    else:
        models = (chosen not in DEMO_MODELS and _models_of_keys(chosen, given)) or demo_tables()
    default = chosen or next(iter(models))
    if settings.demo_models or (default in models and models[default].provider == "demo"):
        models |= demo_tables()
    if default not in models:
        raise SettingsError(
            f"{named('model')} is {default!r}, but must be one of {', '.join(models)}; OPENAI_API_KEY, "
            "OPENAI_BASE_URL, ANTHROPIC_API_KEY or a [models.NAME] table bring others."
        )
    for name, model in models.items():
        if wrong := [other for other in model.fallback if other not in models or other == name]:
            raise SettingsError(
                f"[models.{name}] fallback names {wrong[0]!r}, but must name other models of this server."
            )
    return {default: models[default], **models}


def _table_model(name: str, table: dict[str, Any], given: Mapping[str, str]) -> ModelSettings:
    if name in DEMO_MODELS:
        raise SettingsError(f"[models.{name}] must have another name: this one belongs to a demo model.")
    if not 0 < len(name) <= limits.NAME_CHARS_MAX:
        raise SettingsError(f"[models.{name[:16]}…] must have a name of 1 to {limits.NAME_CHARS_MAX} characters.")
    for secret in ("key", "api_key"):
        if secret in table:
            raise SettingsError(
                f"[models.{name}] {secret} is refused, because a file is read by many: put the key into the "
                'environment and name its variable, as in key_env = "OPENAI_API_KEY".'
            )
    values = dict(table)
    if "key_env" in table:
        values["key"] = SecretStr(_variable(str(table["key_env"]), f"[models.{name}] key_env", given))
    elif (own := _OWN_URLS.get(str(table.get("provider")))) and table.get("base_url", own) == own:
        raise SettingsError(f'[models.{name}] needs a key for {own}: name its variable with key_env = "…".')
    return validated(ModelSettings, values, lambda steps: f"[models.{name}] {'.'.join(steps)}".strip())


def _models_of_keys(chosen: str | None, given: Mapping[str, str]) -> dict[str, ModelSettings]:
    """What the variables give that other programs read too, one model of each service; OpenAI's is the default.

    `chosen` is a model of the only service there is; of two, Anthropic's when its name says so and OpenAI's otherwise.
    """
    openai = "OPENAI_API_KEY" in given or "OPENAI_BASE_URL" in given
    anthropic = "ANTHROPIC_API_KEY" in given
    is_anthropics = chosen is not None and (not openai or chosen.startswith("claude"))
    models: dict[str, ModelSettings] = {}
    if openai:
        models |= _openai_model(None if anthropic and is_anthropics else chosen, given)
    if anthropic:
        models |= _anthropic_model(chosen if is_anthropics else None, given)
    return models


def _anthropic_model(chosen: str | None, given: Mapping[str, str]) -> dict[str, ModelSettings]:
    """What ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL say."""
    values = {
        "provider": "anthropic_messages",
        "base_url": given.get("ANTHROPIC_BASE_URL", ANTHROPIC_URL),
        "model": chosen or ANTHROPIC_MODEL,
        "images": True,
        "key_env": "ANTHROPIC_API_KEY",
        "key": SecretStr(given["ANTHROPIC_API_KEY"]),
    }
    model = validated(ModelSettings, values, lambda steps: "ANTHROPIC_BASE_URL" if steps == ["base_url"] else "")
    return {model.model: model}


def _openai_model(chosen: str | None, given: Mapping[str, str]) -> dict[str, ModelSettings]:
    """What OPENAI_API_KEY and OPENAI_BASE_URL say, as other programs read them."""
    base_url = given.get("OPENAI_BASE_URL", OPENAI_URL)
    values: dict[str, Any] = {"provider": "openai_chat", "base_url": base_url, "model": chosen or OPENAI_MODEL}
    if base_url.rstrip("/") == OPENAI_URL:
        values["images"] = True
    if "OPENAI_API_KEY" in given:
        values |= {"key_env": "OPENAI_API_KEY", "key": SecretStr(given["OPENAI_API_KEY"])}
    elif base_url.rstrip("/") == OPENAI_URL:
        raise SettingsError(f"OPENAI_BASE_URL is {OPENAI_URL}, which wants a key: set OPENAI_API_KEY.")
    if chosen is None and base_url.rstrip("/") != OPENAI_URL:
        raise SettingsError(f"OPENAI_BASE_URL is set, but not which model to ask there for: set {named('model')}.")
    model = validated(ModelSettings, values, lambda steps: "OPENAI_BASE_URL" if steps == ["base_url"] else "")
    return {model.model: model}

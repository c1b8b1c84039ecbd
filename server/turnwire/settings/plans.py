"""What users, organisations and addresses may use: [plans.NAME] tables, and which of them hold for whom."""

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints

from turnwire.core.quotas import TOKENS_MAX, URL_CHARS_MAX, Plan, Plans, SubjectKind, nano_of
from turnwire.settings.kinds import Frozen, Whole
from turnwire.settings.model_tables import Dollars
from turnwire_protocol import limits

PlanName = Annotated[str, StringConstraints(min_length=1, max_length=limits.NAME_CHARS_MAX)]
_Some = Annotated[Whole, Field(ge=0, le=TOKENS_MAX)]
_Turns = Annotated[Whole, Field(ge=0, le=1_000_000)]

FOR_USERS: Final = Plan(turns_per_minute=60, turns_running=16, connections=64)
"""What holds for a user where nothing else is set and people are told apart: more than anybody types, less than a
script may take."""


class PlanSettings(Frozen):
    """One plan; a limit that is not set is none."""

    turns_per_minute: _Turns | None = None
    turns_running: _Turns | None = None
    connections: _Turns | None = None
    tokens_per_day: _Some | None = None
    tokens_per_month: _Some | None = None
    usd_per_day: Dollars | None = None
    usd_per_month: Dollars | None = None
    upgrade_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$", max_length=URL_CHARS_MAX)] | None = None

    @property
    def plan(self) -> Plan:
        values: dict[str, Any] = dict(self)
        for name in ("usd_per_day", "usd_per_month"):
            if values[name] is not None:
                values[name] = nano_of(values[name])
        return Plan(**values)


class PlanChoices(Frozen):
    """[limits]: the plans of whoever a token names none for; and the plans that there are."""

    user_plan: PlanName | None = None
    org_plan: PlanName | None = None
    address_plan: PlanName | None = None
    plans: dict[str, PlanSettings] = Field(default_factory=dict[str, PlanSettings])

    def plans_of(self, *, asks: bool) -> Plans:
        """All plans. `asks`: users are told apart, so that what holds for each of them holds for nobody else."""
        named = {name: table.plan for name, table in self.plans.items()}
        chosen: dict[SubjectKind, str | None] = {
            "user": self.user_plan,
            "org": self.org_plan,
            "address": self.address_plan,
        }
        defaults: dict[SubjectKind, Plan] = {kind: named[name] for kind, name in chosen.items() if name is not None}
        if asks:
            defaults.setdefault("user", FOR_USERS)
        return Plans(named, defaults)

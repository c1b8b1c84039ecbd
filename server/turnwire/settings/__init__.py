"""Everything that an operator can choose: command line over environment over turnwire.toml over default.

Read once, at the start, by app.py and cli.py, and frozen from then on. A value that cannot work stops the start with
one sentence: which setting, under both of its names, what is wrong, and the way out. A name that nothing knows stops it
too, because a misspelt setting is one that silently does not hold. Secrets come from the environment alone and leave
this package only as SecretStr.
"""

from turnwire.settings.model_tables import DeadlineSettings
from turnwire.settings.sentences import SettingsError
from turnwire.settings.shapes import DEMO_MODELS, ModelSettings, Settings, named
from turnwire.settings.sources import load

__all__ = ["DEMO_MODELS", "DeadlineSettings", "ModelSettings", "Settings", "SettingsError", "load", "named"]

"""Load the configured alarms through their entry points; the built-in types come through the same door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import SecretStr, ValidationError

from arcbackupd.alarms import (
    Alarm,
    AlarmSettings,
    JobAlarm,
    JobAlarmSettings,
    StateAlarm,
    StateAlarmSettings,
)
from arcbackupd.errors import UsageError
from arcbackupd.log import redact
from arcbackupd.plugins import Failed, Plugins, wrong_settings

GROUP = "arcbackupd.alarms"
_LOOKS = {"title", "tags", "priority", "x-title", "x-tags", "x-priority", "markdown", "icon", "accept"}
"""Headers that say how a message looks: to mask their words, "arcbackupd" say, would spoil every text."""


@dataclass(frozen=True)
class LoadedAlarm:
    """One that can be used, and its type."""

    kind: str
    alarm: Alarm[Any]


@dataclass(frozen=True)
class FailedAlarm:
    """One that can't be used. It is shown as such; all else goes on."""

    name: str
    kind: str
    problem: str
    hint: str


def load_alarms(
    tables: Mapping[str, tuple[str, Mapping[str, Any]]], host: str, *, found: Iterable[EntryPoint] | None = None
) -> dict[str, LoadedAlarm | FailedAlarm]:
    """Given the type and the own keys of each ``[alarms.NAME]``, return the alarms by name.

    ``host`` is what this host is called, ``found`` are the entry points (default: those installed). Raise
    UsageError ``configuration`` for an unknown type, and for wrong settings of a built-in one; what a third party's
    fails at is a FailedAlarm.
    """
    plugins = Plugins(GROUP, "alarm", found)
    return {name: _load(name, kind, own, host, plugins) for name, (kind, own) in tables.items()}


def _load(name: str, kind: str, own: Mapping[str, Any], host: str, plugins: Plugins) -> LoadedAlarm | FailedAlarm:
    if kind not in plugins.names:
        hint = f"Installed: {', '.join(plugins.names) or 'none'}."
        raise UsageError("configuration", f"alarms.{name}.type: no installed plugin provides {kind}", hint=hint)
    made = plugins.set_up(kind, name, partial(_set_up, name, kind, own, host, plugins))
    return FailedAlarm(name, kind, made.problem, made.hint) if isinstance(made, Failed) else LoadedAlarm(kind, made)


def _set_up(name: str, kind: str, own: Mapping[str, Any], host: str, plugins: Plugins) -> Alarm[Any] | Failed:
    plugin = plugins.load(kind, Alarm, AlarmSettings)  # type: ignore[type-abstract]  # not to make one
    if isinstance(plugin, Failed):
        return plugin
    try:
        settings = plugin.Settings.model_validate(own)
    except ValidationError as error:
        return wrong_settings(f"alarms.{name}", error, built_in=plugins.is_built_in(kind))
    for secret in _secrets(dict(settings).values()):
        redact(secret.get_secret_value())
    if lacking := plugin.problem():
        return Failed(*lacking)
    return _sound(plugin(name, settings, host), name)


def _sound(alarm: Alarm[Any], name: str) -> Alarm[Any]:
    """It, if it has what whoever tells it relies on. Raise TypeError."""
    kinds = ((JobAlarm, JobAlarmSettings), (StateAlarm, StateAlarmSettings))
    wanted = [settings for kind, settings in kinds if isinstance(alarm, kind)]
    if not wanted:
        raise TypeError("its class is neither a JobAlarm nor a StateAlarm")
    if getattr(alarm, "name", None) != name or not all(
        isinstance(getattr(alarm, "settings", None), settings) for settings in wanted
    ):
        names = " and ".join(settings.__name__ for settings in wanted)
        raise TypeError(f"its class doesn't keep its name and settings, which must be {names}")
    return alarm


def _secrets(values: Iterable[object]) -> Iterator[SecretStr]:
    for value in values:
        if isinstance(value, SecretStr):
            yield value
        elif isinstance(value, Mapping):
            yield from _secrets(item for key, item in value.items() if str(key).lower() not in _LOOKS)
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _secrets(value)

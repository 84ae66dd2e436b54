"""Load the configured alarms through their entry points; the built-in types come through the same door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
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
from arcbackupd.errors import UsageError, describe
from arcbackupd.log import get_logger, redact
from arcbackupd.plugins import Failed, Plugins, wrong_settings

GROUP = "arcbackupd.alarms"
_LOAD_SECONDS = 10.0
_LOOKS = {"title", "tags", "priority", "x-title", "x-tags", "x-priority", "markdown", "icon", "accept"}
"""Headers that say how a message looks: to mask their words, "arcbackupd" say, would spoil every text."""
_log = get_logger()


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
    set_up = partial(_set_up, name, kind, own, host, plugins)
    return set_up() if plugins.is_built_in(kind) else _in_time(name, kind, set_up)


def _in_time(name: str, kind: str, set_up: Callable[[], LoadedAlarm | FailedAlarm]) -> LoadedAlarm | FailedAlarm:
    """In a thread that is left alone when it hangs, at a network say: without the alarm, the daemon must start."""
    done: Future[LoadedAlarm | FailedAlarm] = Future()

    def work() -> None:
        try:
            done.set_result(set_up())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not end the daemon
            done.set_result(_not_set_up(name, kind, error))

    try:
        threading.Thread(target=work, name=f"load {name}", daemon=True).start()
        return done.result(_LOAD_SECONDS)
    except TimeoutError:
        hint = "Look what its package waits for as it is imported and set up, then restart the daemon."
        return FailedAlarm(name, kind, f"it isn't set up after {_LOAD_SECONDS:g} s", hint)
    except RuntimeError as error:  # the host has no thread left
        return _not_set_up(name, kind, error)


def _set_up(name: str, kind: str, own: Mapping[str, Any], host: str, plugins: Plugins) -> LoadedAlarm | FailedAlarm:
    plugin = plugins.load(kind, Alarm, AlarmSettings)  # type: ignore[type-abstract]  # not to make one
    if isinstance(plugin, Failed):
        return FailedAlarm(name, kind, plugin.problem, plugin.hint)
    try:
        settings = plugin.Settings.model_validate(own)
    except ValidationError as error:
        wrong = wrong_settings(f"alarms.{name}", error, built_in=plugins.is_built_in(kind))
        return FailedAlarm(name, kind, wrong.problem, wrong.hint)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a validator of a plugin can raise anything
        return _not_set_up(name, kind, error)
    return _make(name, kind, plugin, settings, host)


def _make(
    name: str, kind: str, plugin: type[Alarm[Any]], settings: AlarmSettings, host: str
) -> LoadedAlarm | FailedAlarm:
    try:
        for secret in _secrets(dict(settings).values()):
            redact(secret.get_secret_value())
        if lacking := plugin.problem():
            return FailedAlarm(name, kind, *lacking)
        return LoadedAlarm(kind, _sound(plugin(name, settings, host), name))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        return _not_set_up(name, kind, error)


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


def _not_set_up(name: str, kind: str, error: BaseException) -> FailedAlarm:
    _log.error(f"Alarm {name} can't be set up", alarm=name, exc_info=error)
    return FailedAlarm(name, kind, f"it can't be set up: {describe(error)}", "The journal has the traceback.")


def _secrets(values: Iterable[object]) -> Iterator[SecretStr]:
    for value in values:
        if isinstance(value, SecretStr):
            yield value
        elif isinstance(value, Mapping):
            yield from _secrets(item for key, item in value.items() if str(key).lower() not in _LOOKS)
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _secrets(value)

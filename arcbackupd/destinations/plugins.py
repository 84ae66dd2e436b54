"""Load the configured destinations through their entry points; the built-in types come through the same door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from arcbackupd.destinations import Destination, DestinationSettings
from arcbackupd.errors import UsageError, describe
from arcbackupd.log import get_logger, redact
from arcbackupd.plugins import Failed, Plugins, wrong_settings

GROUP = "arcbackupd.destinations"
_log = get_logger()


@dataclass(frozen=True)
class FailedDestination:
    """One that can't be used. It is shown as such; all else goes on, the dumps first of all."""

    name: str
    problem: str
    hint: str


def load_destinations(
    tables: Mapping[str, tuple[str, Mapping[str, Any]]],
    state_dir: Path,
    *,
    found: Iterable[EntryPoint] | None = None,
) -> dict[str, Destination[Any] | FailedDestination]:
    """Given the type and the own keys of each ``[destinations.NAME]``, return the destinations by name.

    ``state_dir`` is where they keep what can be lost, ``found`` are the entry points (default: those installed).
    Raise UsageError ``configuration`` for an unknown type, and for wrong settings of a built-in one; what a third
    party's fails at, and a tool that isn't installed, is a FailedDestination.
    """
    plugins = Plugins(GROUP, "destination", found)
    return {name: _load(name, kind, own, state_dir / name, plugins) for name, (kind, own) in tables.items()}


def _load(
    name: str, kind: str, own: Mapping[str, Any], state_dir: Path, plugins: Plugins
) -> Destination[Any] | FailedDestination:
    path = f"destinations.{name}"
    if kind not in plugins.names:
        hint = f"Installed: {', '.join(plugins.names) or 'none'}."
        raise UsageError("configuration", f"{path}.type: no installed plugin provides {kind}", hint=hint)
    plugin = plugins.load(kind, Destination, DestinationSettings)  # type: ignore[type-abstract]  # not to make one
    if isinstance(plugin, Failed):
        return FailedDestination(name, plugin.problem, plugin.hint)
    try:
        settings = plugin.Settings.model_validate(own)
    except ValidationError as error:
        wrong = wrong_settings(path, error, built_in=plugins.is_built_in(kind))
        return FailedDestination(name, wrong.problem, wrong.hint)
    return _make(name, plugin, settings, state_dir)


def _make(
    name: str, plugin: type[Destination[Any]], settings: DestinationSettings, state_dir: Path
) -> Destination[Any] | FailedDestination:
    try:
        for value in dict(settings).values():
            if isinstance(value, SecretStr):
                redact(value.get_secret_value())
        if lacking := plugin.problem():
            return FailedDestination(name, *lacking)
        return plugin(name, settings, state_dir)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Destination {name} can't be set up", destination=name, exc_info=error)
        return FailedDestination(name, f"it can't be set up: {describe(error)}", "The journal has the traceback.")

"""Load the configured destinations through their entry points; the built-in types come through the same door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from arcbackupd.destinations import Destination, DestinationSettings
from arcbackupd.errors import UsageError
from arcbackupd.log import redact
from arcbackupd.plugins import Failed, Plugins, wrong_settings

GROUP = "arcbackupd.destinations"


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
    if kind not in plugins.names:
        hint = f"Installed: {', '.join(plugins.names) or 'none'}."
        raise UsageError(
            "configuration", f"destinations.{name}.type: no installed plugin provides {kind}", hint=hint
        )
    made = plugins.set_up(kind, name, partial(_set_up, name, kind, own, state_dir, plugins))
    return FailedDestination(name, made.problem, made.hint) if isinstance(made, Failed) else made


def _set_up(
    name: str, kind: str, own: Mapping[str, Any], state_dir: Path, plugins: Plugins
) -> Destination[Any] | Failed:
    plugin = plugins.load(kind, Destination, DestinationSettings)  # type: ignore[type-abstract]  # not to make one
    if isinstance(plugin, Failed):
        return plugin
    try:
        settings = plugin.Settings.model_validate(own)
    except ValidationError as error:
        return wrong_settings(f"destinations.{name}", error, built_in=plugins.is_built_in(kind))
    for value in dict(settings).values():
        if isinstance(value, SecretStr):
            redact(value.get_secret_value())
    if lacking := plugin.problem():
        return Failed(*lacking)
    return _sound(plugin(name, settings, state_dir), name)


def _sound(destination: Destination[Any], name: str) -> Destination[Any]:
    """It, if it has what the daemon goes by before it is used. Raise TypeError, and what its plugin raises."""
    if getattr(destination, "name", None) != name or not isinstance(destination.location, str):
        raise TypeError("its class doesn't keep its name, or its location is no text")
    return destination

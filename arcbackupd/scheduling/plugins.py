"""Load jobs through their entry points; the built-in ones come through the same door."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import ValidationError

from arcbackupd.errors import UsageError
from arcbackupd.jobs import Job, JobContext, JobSettings
from arcbackupd.plugins import Failed, Plugins, table, wrong_settings
from arcbackupd.schedule import Schedule

GROUP = "arcbackupd.jobs"
BUILT_IN = ("dump", "prune", "discard", "upload", "drill")


@dataclass(frozen=True)
class LoadedJob:
    """A job that can run."""

    name: str
    job: Job[Any]
    settings: JobSettings
    schedule: Schedule
    """The one of its settings, with this host's jitter."""


@dataclass(frozen=True)
class FailedJob:
    """A job whose plugin doesn't load. It is shown as such; all else goes on."""

    name: str
    problem: str
    hint: str


def load_jobs(
    tables: Mapping[str, Mapping[str, Any]],
    context: Callable[[str], JobContext],
    *,
    host_id: str,
    always: Collection[str] = BUILT_IN,
    found: Iterable[EntryPoint] | None = None,
) -> list[LoadedJob | FailedJob]:
    """Given the ``[jobs.NAME]`` tables, return the jobs, in the order of their names.

    Those of ``always`` are loaded with their defaults when they have no table. ``context`` makes what the daemon
    lends to the job of that name, ``host_id`` decides on the jitter, ``found`` are the entry points (default: those
    installed). Raise UsageError ``configuration`` for a table without an installed plugin, and for wrong settings
    of a built-in job; any failure of a third party's plugin is a FailedJob.
    """
    plugins = Plugins(GROUP, "job", found)
    checked = _checked(tables, always, plugins)
    return [
        item if isinstance(item, FailedJob) else _construct(item, context, host_id, plugins) for item in checked
    ]


def check_jobs(
    tables: Mapping[str, Mapping[str, Any]],
    *,
    always: Collection[str] = BUILT_IN,
    found: Iterable[EntryPoint] | None = None,
) -> list[FailedJob]:
    """What ``load_jobs`` would object to, without constructing a job. Raises as it does."""
    return [item for item in _checked(tables, always, Plugins(GROUP, "job", found)) if isinstance(item, FailedJob)]


@dataclass(frozen=True)
class _Checked:
    name: str
    plugin: type[Job[Any]]
    settings: JobSettings


def _checked(
    tables: Mapping[str, Mapping[str, Any]], always: Collection[str], plugins: Plugins
) -> list[_Checked | FailedJob]:
    return [_check(name, tables.get(name, {}), plugins) for name in sorted({*tables, *always})]


def _check(name: str, given: object, plugins: Plugins) -> _Checked | FailedJob:
    path = f"jobs.{name}"
    if name not in plugins.names:
        installed = ", ".join(plugins.names) or "none"
        hint = f"Installed: {installed}. Install its package, or remove the table."
        raise UsageError("configuration", f"{path}: no installed plugin provides this job", hint=hint)
    checked = plugins.set_up(name, name, partial(_import, name, table(path, given), plugins))
    return FailedJob(name, checked.problem, checked.hint) if isinstance(checked, Failed) else checked


def _import(name: str, own: Mapping[str, Any], plugins: Plugins) -> _Checked | Failed:
    plugin = plugins.load(name, Job, JobSettings)
    if isinstance(plugin, Failed):
        return plugin
    try:
        settings = plugin.Settings.model_validate({"schedule": plugin.default_schedule, **own})
    except ValidationError as error:
        return wrong_settings(f"jobs.{name}", error, built_in=plugins.is_built_in(name))
    return _Checked(name, plugin, settings)


def _construct(
    checked: _Checked, context: Callable[[str], JobContext], host_id: str, plugins: Plugins
) -> LoadedJob | FailedJob:
    name, settings, lent = checked.name, checked.settings, context(checked.name)

    def make() -> LoadedJob:
        return LoadedJob(name, checked.plugin(settings, lent), settings, settings.schedule.on_host(host_id))

    made = plugins.set_up(name, name, make)
    return FailedJob(name, made.problem, made.hint) if isinstance(made, Failed) else made

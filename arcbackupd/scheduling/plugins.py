"""Load jobs through their entry points; the built-in ones come through the same door."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import ValidationError

from arcbackupd.errors import UsageError, describe
from arcbackupd.jobs import Job, JobContext, JobSettings
from arcbackupd.log import get_logger
from arcbackupd.plugins import Failed, Plugins, table, wrong_settings
from arcbackupd.schedule import Schedule

GROUP = "arcbackupd.jobs"
BUILT_IN = ("dump", "prune", "discard", "upload", "drill")
_log = get_logger()


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
    checked = _checked(tables, always, found)
    return [item if isinstance(item, FailedJob) else _construct(item, context, host_id) for item in checked]


def check_jobs(
    tables: Mapping[str, Mapping[str, Any]],
    *,
    always: Collection[str] = BUILT_IN,
    found: Iterable[EntryPoint] | None = None,
) -> list[FailedJob]:
    """What ``load_jobs`` would object to, without constructing a job. Raises as it does."""
    return [item for item in _checked(tables, always, found) if isinstance(item, FailedJob)]


@dataclass(frozen=True)
class _Checked:
    name: str
    plugin: type[Job[Any]]
    settings: JobSettings


def _checked(
    tables: Mapping[str, Mapping[str, Any]], always: Collection[str], found: Iterable[EntryPoint] | None
) -> list[_Checked | FailedJob]:
    plugins = Plugins(GROUP, "job", found)
    return [_check(name, tables.get(name, {}), plugins) for name in sorted({*tables, *always})]


def _check(name: str, given: object, plugins: Plugins) -> _Checked | FailedJob:
    path = f"jobs.{name}"
    if name not in plugins.names:
        installed = ", ".join(plugins.names) or "none"
        hint = f"Installed: {installed}. Install its package, or remove the table."
        raise UsageError("configuration", f"{path}: no installed plugin provides this job", hint=hint)
    own = table(path, given)
    plugin = plugins.load(name, Job, JobSettings)
    if isinstance(plugin, Failed):
        return FailedJob(name, plugin.problem, plugin.hint)
    try:
        settings = plugin.Settings.model_validate({"schedule": plugin.default_schedule, **own})
    except ValidationError as error:
        wrong = wrong_settings(path, error, built_in=plugins.is_built_in(name))
        return FailedJob(name, wrong.problem, wrong.hint)
    return _Checked(name, plugin, settings)


def _construct(checked: _Checked, context: Callable[[str], JobContext], host_id: str) -> LoadedJob | FailedJob:
    name = checked.name
    try:
        job = checked.plugin(checked.settings, context(name))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Job {name} can't be set up", job=name, exc_info=error)
        return FailedJob(name, f"it can't be set up: {describe(error)}", "Look at the journal for the traceback.")
    return LoadedJob(name, job, checked.settings, checked.settings.schedule.on_host(host_id))

"""Load jobs through their entry points; the built-in ones come through the same door."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from arcbackupd.errors import UsageError
from arcbackupd.jobs import Job, JobContext, JobSettings
from arcbackupd.log import get_logger
from arcbackupd.schedule import Schedule
from arcbackupd.scheduling.state import describe

GROUP = "arcbackupd.jobs"
BUILT_IN = ("dump", "prune", "discard")
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
    installed = _installed(entry_points(group=GROUP) if found is None else found)
    return [_check(name, tables.get(name, {}), installed) for name in sorted({*tables, *always})]


def _installed(found: Iterable[EntryPoint]) -> dict[str, list[EntryPoint]]:
    """Entry points by name. A built-in job's name can't be taken over."""
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in found:
        by_name[point.name].append(point)
    return {name: [p for p in points if _is_built_in(p)][:1] or points for name, points in by_name.items()}


def _is_built_in(point: EntryPoint) -> bool:
    return point.module.split(".")[0] == "arcbackupd"


def _check(name: str, table: object, installed: Mapping[str, list[EntryPoint]]) -> _Checked | FailedJob:
    points = installed.get(name)
    if not points:
        raise UsageError(
            "configuration",
            f"jobs.{name}: no installed plugin provides this job",
            hint=f"Installed: {', '.join(sorted(installed)) or 'none'}. Install its package, or remove the table.",
        )
    if len(points) > 1:
        return FailedJob(name, f"{len(points)} installed packages provide it", "Uninstall all but one of them.")
    if not isinstance(table, Mapping):
        raise UsageError("configuration", f"jobs.{name}: not a table", hint=f"Write a section [jobs.{name}].")
    return _check_plugin(name, table, points[0])


def _check_plugin(name: str, table: Mapping[str, Any], point: EntryPoint) -> _Checked | FailedJob:
    try:
        plugin = _import_plugin(point)
        settings = plugin.Settings.model_validate({"schedule": plugin.default_schedule, **table})
    except ValidationError as error:
        return _wrong_settings(name, error, point)
    # SystemExit too: a plugin that calls sys.exit() as it is imported must not end the daemon.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Job {name} doesn't load", job=name, exc_info=error)
        return FailedJob(name, f"its plugin doesn't load: {describe(error)}", _reinstall(point))
    return _Checked(name, plugin, settings)


def _import_plugin(point: EntryPoint) -> type[Job[Any]]:
    plugin = point.load()
    if not (isinstance(plugin, type) and issubclass(plugin, Job)):
        raise TypeError(f"{point.value} is not a subclass of arcbackupd.jobs.Job")
    if not (isinstance(plugin.Settings, type) and issubclass(plugin.Settings, JobSettings)):
        raise TypeError(f"{point.value}.Settings is not a subclass of arcbackupd.jobs.JobSettings")
    return plugin


def _wrong_settings(name: str, error: ValidationError, point: EntryPoint) -> FailedJob:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problem = "; ".join(f"{_key_path(name, detail)}: {_reason(detail)}" for detail in details)
    if _is_built_in(point):
        raise UsageError("configuration", problem, hint="Correct the configuration file.") from None
    return FailedJob(name, problem, "Correct the configuration file, then `systemctl reload arcbackupd`.")


def _key_path(name: str, detail: ErrorDetails) -> str:
    return ".".join(["jobs", name, *(str(part) for part in detail["loc"])])


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "no such setting"
    reason = detail["msg"].removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]


def _construct(checked: _Checked, context: Callable[[str], JobContext], host_id: str) -> LoadedJob | FailedJob:
    name = checked.name
    try:
        job = checked.plugin(checked.settings, context(name))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Job {name} can't be set up", job=name, exc_info=error)
        return FailedJob(name, f"it can't be set up: {describe(error)}", "Look at the journal for the traceback.")
    return LoadedJob(name, job, checked.settings, checked.settings.schedule.on_host(host_id))


def _reinstall(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else point.module
    return f"Update or reinstall {package}; the journal has the traceback."

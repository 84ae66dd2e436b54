"""What jobs and destinations have in common: classes that packages bring by entry points, with validated settings.

The built-in ones come through the same door, and no other package can take their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from arcbackupd.errors import UsageError, describe
from arcbackupd.log import get_logger

Plugin = TypeVar("Plugin")
_log = get_logger()


@dataclass(frozen=True)
class Failed:
    """Why a plugin can't be used, and what to do. All else goes on without it."""

    problem: str
    hint: str


class Plugins:
    """The installed plugins of a group."""

    def __init__(self, group: str, noun: str, found: Iterable[EntryPoint] | None = None) -> None:
        """``noun``: what one is, for the journal; ``found``: entry points to take in place of those installed."""
        self._noun = noun
        by_name: dict[str, list[EntryPoint]] = defaultdict(list)
        for point in entry_points(group=group) if found is None else found:
            by_name[point.name].append(point)
        self._points = {name: [p for p in points if _built_in(p)][:1] or points for name, points in by_name.items()}

    @property
    def names(self) -> list[str]:
        """What there is."""
        return sorted(self._points)

    def is_built_in(self, name: str) -> bool:
        """Whether it is one of our own, whose wrong settings are an error of the configuration."""
        return any(map(_built_in, self._points.get(name, [])))

    def load(self, name: str, base: type[Plugin], settings: type[BaseModel]) -> type[Plugin] | Failed:
        """The class of an installed plugin: one derived from ``base``, its ``Settings`` from ``settings``."""
        first, *others = self._points[name]
        if others:
            problem = f"{len(others) + 1} installed packages provide it"
            return Failed(problem, "Uninstall all but one of them.")
        try:
            return _class(first, base, settings)
        # SystemExit too: a plugin that calls sys.exit() as it is imported must not end the daemon.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
            _log.error(f"The {self._noun} {name} doesn't load", exc_info=error, **{self._noun: name})
            package = first.dist.name if first.dist is not None else first.module
            hint = f"Update or reinstall {package}; the journal has the traceback."
            return Failed(f"its plugin doesn't load: {describe(error)}", hint)


def _built_in(point: EntryPoint) -> bool:
    return point.module.split(".")[0] == "arcbackupd"


def _class(point: EntryPoint, base: type[Plugin], settings: type[BaseModel]) -> type[Plugin]:
    plugin = point.load()
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise TypeError(f"{point.value} is not a subclass of {base.__module__}.{base.__name__}")
    own = getattr(plugin, "Settings", None)
    if not (isinstance(own, type) and issubclass(own, settings)):
        raise TypeError(f"{point.value}.Settings is not a subclass of {settings.__module__}.{settings.__name__}")
    return plugin


def table(path: str, given: object) -> Mapping[str, Any]:
    """A table of the configuration. Raise UsageError for what is none."""
    if isinstance(given, Mapping):
        return given
    raise UsageError("configuration", f"{path}: not a table", hint=f"Write a section [{path}].")


def wrong_settings(path: str, error: ValidationError, *, built_in: bool) -> Failed:
    """Why a table's settings are wrong, key by key, without a value. Raise UsageError for a built-in plugin's."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problem = "; ".join(f"{_key(path, detail)}: {_reason(detail)}" for detail in details)
    if built_in:
        raise UsageError("configuration", problem, hint="Correct the configuration file.") from None
    return Failed(problem, "Correct the configuration file, then `systemctl reload arcbackupd`.")


def _key(path: str, detail: ErrorDetails) -> str:
    return ".".join([path, *(str(part) for part in detail["loc"])])


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "no such setting"
    reason = detail["msg"].removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]

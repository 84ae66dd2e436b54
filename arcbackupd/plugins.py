"""What jobs, destinations and alarms have in common: classes that packages bring by entry points.

Their settings are validated. The built-in ones come through the same door; no other package can take their names.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from arcbackupd.errors import UsageError, describe
from arcbackupd.log import get_logger

Plugin = TypeVar("Plugin")
Made = TypeVar("Made")
_SET_UP_SECONDS = 10.0
_HANGING_SECONDS, _LEAST_SECONDS = 15.0, 1.0
"""What those that hang may take together, and what each has all the same: systemd waits a minute for the start."""
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
        self._importing: set[str] = set()
        self._left = _HANGING_SECONDS

    @property
    def names(self) -> list[str]:
        """What there is."""
        return sorted(self._points)

    def is_built_in(self, name: str) -> bool:
        """Whether it is one of our own, whose wrong settings are an error of the configuration."""
        return any(map(_built_in, self._points.get(name, [])))

    def set_up(self, name: str, called: str, work: Callable[[], Made | Failed]) -> Made | Failed:
        """What ``work`` makes of the plugin ``name``: it imports it, validates settings, constructs it.

        ``called`` is what the configuration calls the thing that is made. A plugin that isn't ours has ten seconds,
        less after others that hung, in a thread that is left alone when it hangs, at a network say: without it, the
        daemon must start. What it raises is a Failed; so is what a built-in one raises, but for UsageError.
        """
        if not self.is_built_in(name):
            return self._set_up_in_time(name, called, work)
        try:
            return work()
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - all else goes on without it, whatever it is
            return self._not_set_up(called, error)

    def _set_up_in_time(self, name: str, called: str, work: Callable[[], Made | Failed]) -> Made | Failed:
        seconds = min(_SET_UP_SECONDS, max(self._left, _LEAST_SECONDS))
        if name in self._importing:  # still, and whoever else imports it waits for that
            return _too_late(_SET_UP_SECONDS)
        done: Future[Made | Failed] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - a plugin can raise anything, and must not end the daemon
                done.set_result(self._not_set_up(called, error))

        try:
            threading.Thread(target=run, name=f"set up {called}", daemon=True).start()
            return done.result(seconds)
        except TimeoutError:
            self._left -= seconds
            return _too_late(seconds)
        except RuntimeError as error:  # the host has no thread left
            return self._not_set_up(called, error)

    def _not_set_up(self, called: str, error: BaseException) -> Failed:
        _log.error(f"{self._noun.capitalize()} {called} can't be set up", exc_info=error, **{self._noun: called})
        return Failed(f"it can't be set up: {describe(error)}", "The journal has the traceback.")

    def load(self, name: str, base: type[Plugin], settings: type[BaseModel]) -> type[Plugin] | Failed:
        """The class of an installed plugin: one derived from ``base``, its ``Settings`` from ``settings``."""
        first, *others = self._points[name]
        if others:
            problem = f"{len(others) + 1} installed packages provide it"
            return Failed(problem, "Uninstall all but one of them.")
        self._importing.add(name)
        try:
            return _class(first, base, settings)
        # SystemExit too: a plugin that calls sys.exit() as it is imported must not end the daemon.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
            _log.error(f"The {self._noun} {name} doesn't load", exc_info=error, **{self._noun: name})
            package = first.dist.name if first.dist is not None else first.module
            hint = f"Update or reinstall {package}; the journal has the traceback."
            return Failed(f"its plugin doesn't load: {describe(error)}", hint)
        finally:
            self._importing.discard(name)


def _too_late(seconds: float) -> Failed:
    hint = "Look what its package waits for as it is imported and set up, then `systemctl restart arcbackupd`."
    return Failed(f"it isn't set up after {seconds:g} s", hint)


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

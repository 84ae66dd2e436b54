"""What every command shares: its options, its output, and how an error becomes words and an exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from arcbackupd import __version__
from arcbackupd.control.client import REPLY_SECONDS, Connection
from arcbackupd.ctl.render import Screen
from arcbackupd.ctl.words import clean, paragraph
from arcbackupd.errors import ArcbackupdError, DaemonUnreachable, OperationFailed, Refused

BROKEN_PIPE = 141  # as if ended by SIGPIPE: what reads us has gone, and nobody is told
STATUS_UNKNOWN = 3
_NO_LIMIT = 10_000  # columns, when it isn't a terminal that shows them

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class Session:
    """One run of the client."""

    def __init__(self) -> None:
        self.json = False
        self.socket: str | None = None
        self.no_color = bool(os.environ.get("NO_COLOR"))
        self.is_status = False
        """Whether the command is ``status``, whose exit statuses are a monitoring plugin's."""

    @property
    def on_terminal(self) -> bool:
        """Whether a person watches what is printed."""
        return sys.stdout.isatty()

    @property
    def on_dumb_terminal(self) -> bool:
        """Whether what shows it takes it for text, whatever else is in it."""
        return os.environ.get("TERM") == "dumb"

    @property
    def colored(self) -> bool:
        """Whether to colour what is printed."""
        return self.on_terminal and not self.no_color and not self.on_dumb_terminal

    @property
    def interactive(self) -> bool:
        """Whether there is somebody to ask."""
        return not self.json and sys.stdin.isatty() and self.on_terminal

    @contextmanager
    def daemon(self) -> Iterator[Connection]:
        """A connection for calls; warn in one line when the daemon's version is another one."""
        with Connection(self.socket) as connection:
            try:
                yield connection
            finally:
                _compare_versions(connection.daemon_version)

    def ask(
        self, method: str, parameters: Mapping[str, object] | None = None, *, seconds: float | None = REPLY_SECONDS
    ) -> dict[str, Any]:
        """One call on a connection of its own; ``seconds`` None waits for as long as it takes."""
        with self.daemon() as daemon:
            return daemon.call(method, parameters, seconds=seconds)

    def show(self, reply: Mapping[str, object], text: Callable[[Screen], str]) -> None:
        """Print a reply: as it is with ``--json``, else as text. Only what is printed is rendered."""
        self.say(self.rendered(reply, text))

    def rendered(self, reply: Mapping[str, object], text: Callable[[Screen], str]) -> str:
        """What ``show`` prints. Raise OperationFailed for a reply that isn't what the interface promises."""
        if self.json:
            return json.dumps(reply)
        try:
            return text(self.screen())
        except (LookupError, TypeError) as error:
            raise not_understood() from error

    def say(self, text: str) -> None:
        """Print to stdout. When nobody reads any more, end quietly. Raise OperationFailed when there is no room."""
        try:
            click.echo(text, color=self.colored)
        except BrokenPipeError:
            quiet_stdout()
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        except OSError as error:
            quiet_stdout()
            raise OperationFailed("not-written", f"What is printed can't be written: {error.strerror}.") from None

    def screen(self) -> Screen:
        """What text is rendered for."""
        return Screen(datetime.now(UTC), _columns() if self.on_terminal else _NO_LIMIT, self._paint)

    def confirm(self, question: str) -> None:
        """Ask. Raise Refused without a yes, and without a terminal to ask on."""
        self._need_somebody()
        if not click.confirm(question):
            raise Refused("not-confirmed", "Nothing was done.")

    def confirm_by_name(self, what: str, name: str) -> None:
        """Have a name typed. Raise Refused unless it is that very name, and without a terminal to type it on."""
        self._need_somebody()
        if click.prompt(f"To go on, type {what}", default="", show_default=False) != name:
            raise Refused(
                "not-confirmed",
                f"Nothing was done: what was typed is not {what}.",
                hint=f"It has to be exactly {name}",
            )

    def _need_somebody(self) -> None:
        if not self.interactive:
            raise Refused(
                "confirmation-needed",
                "Nothing was done: there is no terminal to confirm it on.",
                hint="Say --yes if you mean it; --dry-run shows what it would do.",
            )

    def fail(self, error: ArcbackupdError) -> int:
        """Tell an error; return the exit status for it."""
        if self.json:
            self.say(json.dumps({"error": error.as_dict()}))
        else:
            width = _columns() if sys.stderr.isatty() else _NO_LIMIT
            hint = f"\n{paragraph(f'hint: {error.hint}', width, '  ')}" if error.hint else ""
            click.echo(f"{paragraph(f'arcbackupctl: {error.message}', width)}{hint}", err=True)
        if self.is_status and not isinstance(error, DaemonUnreachable):
            return STATUS_UNKNOWN
        return error.exit_status

    def _paint(self, text: str, color: str | None) -> str:
        return click.style(text, fg=color) if color and self.colored else text


def _columns() -> int:
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def not_understood() -> OperationFailed:
    """The error for a reply that isn't what the interface promises."""
    return OperationFailed(
        "reply-not-understood",
        "The daemon's reply is not what this client expects.",
        hint="After an upgrade: sudo systemctl restart arcbackupd. --json shows the reply as it is.",
    )


def _compare_versions(theirs: str | None) -> None:
    if theirs not in (None, __version__):
        text = f"note: the daemon's version is {theirs}, this client's is {__version__}; restart the daemon"
        click.echo(f"arcbackupctl: {clean(text)}", err=True)


def quiet_stdout() -> None:
    """Let what is still buffered for a reader that has gone vanish, instead of failing at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def options(command: CommandT) -> CommandT:
    """Give a command the options that every one has; they mean the same before and after its name."""
    for option in (
        _option("--no-color", "no_color", "No colours (also: NO_COLOR, or no terminal).", is_flag=True),
        _option("--socket", "socket", "The daemon's socket (default: $ARCBACKUPD_SOCKET).", metavar="PATH"),
        _option("--json", "json", "Print JSON, for programs.", is_flag=True),
    ):
        command = option(command)
    return command


def _option(flag: str, attribute: str, text: str, **settings: Any) -> Callable[[CommandT], CommandT]:
    def store(context: click.Context, _: click.Parameter, value: object) -> None:
        session = context.find_object(Session)
        if value and session is not None:
            setattr(session, attribute, value)

    return click.option(flag, help=text, expose_value=False, callback=store, **settings)

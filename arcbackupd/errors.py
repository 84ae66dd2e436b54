"""The errors that reach an operator, classed by what the operator can do next.

    ArcbackupdError
    ├── OperationFailed    1  it was tried and did not work
    ├── UsageError         2  the request or the configuration is wrong
    ├── NoSuchBackup       3  the reference names nothing
    ├── Refused            4  needs --force, a confirmation, or rights
    ├── DaemonUnreachable  5  nobody answers on the socket
    └── Busy               6  another operation is running

The number is the exit status of the client. Every error has a stable ``code`` for programs, a ``message``
that says what happened and how things stand now, and a ``hint`` that says what to do next.
Standard library only: the client half imports it too.
"""

from __future__ import annotations


class ArcbackupdError(Exception):
    """An error with a code for programs, a sentence for people and a hint on what to do."""

    exit_status = 1

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The error's parts, as they travel on the control socket and in ``--json``."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class OperationFailed(ArcbackupdError):
    """It was tried and did not work."""


class UsageError(ArcbackupdError):
    """The request or the configuration is wrong."""

    exit_status = 2


class NoSuchBackup(ArcbackupdError):
    """The reference names no backup, or more than one."""

    exit_status = 3


class Refused(ArcbackupdError):
    """It needs ``--force``, a confirmation, or rights that the caller lacks."""

    exit_status = 4


class DaemonUnreachable(ArcbackupdError):
    """Nobody answers on the control socket."""

    exit_status = 5


class Busy(ArcbackupdError):
    """Another operation is running."""

    exit_status = 6


KINDS: tuple[type[ArcbackupdError], ...] = (
    OperationFailed,
    UsageError,
    NoSuchBackup,
    Refused,
    DaemonUnreachable,
    Busy,
)

LONGEST_MESSAGE = 500
"""Characters of an error that is remembered or told in a line."""


def describe(error: BaseException) -> str:
    """An error in a line; also for one whose own text fails."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a plugin's exception can do anything
        text = ""
    kind = type(error).__name__
    return shortened(f"{kind}: {text}" if text else kind)


def shortened(text: str) -> str:
    """A text of at most LONGEST_MESSAGE characters, cut between words: half a secret isn't masked."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 2].rpartition(' ')[0]} …".strip()

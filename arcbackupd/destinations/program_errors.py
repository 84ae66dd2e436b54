"""What the programs behind destinations say when something goes wrong, and what that means for an operator."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.destinations import DestinationError
from arcbackupd.log import MASK, redacted

_WORDS_LIMIT = 600
_LAST = 20


class LastWords:
    """The last of what a program says, each once. ``words_in`` finds in a line what counts; empty for nothing."""

    def __init__(self, words_in: Callable[[str], str], said: str = "") -> None:
        self._words_in = words_in
        self._said: dict[str, None] = {}
        for line in said.splitlines():
            self.hear(line)

    def __str__(self) -> str:
        return "; ".join(self._said)

    def hear(self, line: str) -> None:
        """Take a line of what it says."""
        if words := self._words_in(line).strip():
            self._said.pop(words, None)
            self._said[words] = None
            if len(self._said) > _LAST:
                del self._said[next(iter(self._said))]


@dataclass(frozen=True)
class _Meaning:
    pattern: str
    code: str
    says: str
    hint: str
    passing: bool = False


_MEANINGS = (
    _Meaning(
        r"didn't find section in config|section not found",
        "destination-missing",
        "names a remote that rclone doesn't know",
        "Make it by `rclone config`, in the file that the settings name.",
    ),
    _Meaning(
        r"wrong password or no key found",
        "destination-denied",
        "doesn't open with this password",
        "Correct the password in the settings, or the file that they name.",
    ),
    _Meaning(
        r"already locked|unable to create lock",
        "destination-failed",
        "is locked by another program",
        "If none works on it any more, as after a crash, remove what it left: `restic unlock`.",
        passing=True,
    ),
    _Meaning(
        r"no space left|remaining disk space|disk full|disk quota|quota.{0,20}exceeded|storage ?(limit|quota)"
        r"|insufficient ?storage|\b507\b",
        "destination-full",
        "is full",
        "Make room there, or keep fewer dumps.",
    ),
    _Meaning(
        r"unable to authenticate|authentication fail|permission denied|access ?denied|forbidden|unauthorized"
        r"|\b40[13]\b|host key (verification|mismatch)|knownhosts: key|no hostkey|invalid_?(grant|access_?key)"
        r"|signature_?does_?not_?match|load (private|public) ?key|parse private key|read-only file system",
        "destination-denied",
        "refuses us",
        "Correct the name, key or password in its settings, or the rights of that user there.",
    ),
    _Meaning(
        r"connection (refused|reset|lost|timed out|closed)|no such host|could not resolve|no route to host"
        r"|network is unreachable|i/o timeout|unexpected eof|\beof\b|broken pipe|timeout|deadline exceeded"
        r"|unable to start the sftp session|couldn't connect|unexpectedly"
        r"|server misbehaving|name resolution|\b(429|50[0234])\b",
        "destination-unreachable",
        "can't be reached",
        "Look whether its server runs and the network leads there.",
        passing=True,
    ),
    _Meaning(
        r"is there a repository at|repository does not exist|unable to open config file",
        "destination-missing",
        "holds no repository",
        "Mount it there or, for a new one, make it: `restic init`.",
    ),
)
"""What a program says, and what it means; the first that fits. Both programs are written in Go and speak alike."""


def meaning(name: str, said: str) -> DestinationError:
    """The error for what a program said about the destination of that name."""
    words = shown(said) or "it gave no reason"
    for known in _MEANINGS:
        if re.search(known.pattern, said, re.IGNORECASE):
            message = f"The destination {name!r} {known.says}: {words}"
            return DestinationError(known.code, message, hint=known.hint, passing=known.passing)
    hint = "Run the same by hand to see more of what it says."
    return DestinationError("destination-failed", f"The destination {name!r} failed: {words}", hint=hint)


_USERINFO = re.compile(r"(://)[^/\s@'\"]+@")
_ASSIGNED = re.compile(
    r"""([\w-]*(?:pass|secret|token|key|credential)[\w-]*(?:\s*=\s*|["']\s*:\s*|:(?=\S)))("[^"]*"|'[^']*'|[^\s,;&]+)""",
    re.IGNORECASE,
)
"""What follows ``name=``, ``"name": `` or ``name:``; a word and a colon are more often the begin of a sentence."""


def shown(said: str) -> str:
    """A program's words as an error may carry them: on one line, not too many, and without secrets."""
    words = " ".join(said.split())[-_WORDS_LIMIT:]
    return redacted(_ASSIGNED.sub(rf"\1{MASK}", _USERINFO.sub(rf"\1{MASK}@", words)))


def unreadable(name: str, source: Path | str, reason: str) -> DestinationError:
    """The error for what can't be read on this host."""
    message = f"{source} can't be stored in the destination {name!r}: {reason}."
    return DestinationError("destination-failed", message, hint="Look at this host's own disk.")


def damaged(name: str, key: str, what: str) -> DestinationError:
    """The error for a file of which something else arrived."""
    hint = "Try again; if that happens more than once, look at the disks and the memory on both sides."
    message = f"What arrived of {key!r} in the destination {name!r} isn't what was sent: {what}."
    return DestinationError("destination-damaged", message, hint=hint, passing=True)

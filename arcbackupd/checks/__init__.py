"""What must hold for backups to be taken, as one list: `arcbackupctl doctor` and `arcbackupd setup` go through it.

A check is a value: a name, its subject in words, the checks that must not have failed before it, and what looks.
An ArcbackupdError that it raises is a verdict too. Nothing that a check does stays: no file, no dump, no session of
the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from arcbackupd.checks.subject import Subject
from arcbackupd.errors import ArcbackupdError, describe


class State(StrEnum):
    """How it stands with one check, and with all of them."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Verdict:
    """What a check found: a sentence, and what to do about it."""

    state: State
    message: str
    hint: str = ""


def ok(message: str) -> Verdict:
    """It is as it should be."""
    return Verdict(State.OK, message)


def warning(message: str, hint: str) -> Verdict:
    """Backups are taken, but somebody should see to it."""
    return Verdict(State.WARNING, message, hint)


def failed(message: str, hint: str) -> Verdict:
    """No backup can be taken, or nobody could get at it."""
    return Verdict(State.FAILED, message, hint)


def skipped(message: str) -> Verdict:
    """It doesn't apply here, or can't be told now."""
    return Verdict(State.SKIPPED, message)


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    name: str
    title: str
    look: Callable[[Subject], Verdict]
    needs: tuple[str, ...] = ()
    """Names of checks before it: where one of them failed, nothing can be told."""


@dataclass(frozen=True)
class Finding:
    """A check with its verdict, as the control socket has it."""

    name: str
    title: str
    state: State
    message: str
    hint: str


def examine(checks: Iterable[Check], subject: Subject) -> Iterator[Finding]:
    """Go through the checks in their order. What needs one that failed is left out, and says so."""
    untold: dict[str, str] = {}
    for check in checks:
        blocker = next((untold[name] for name in check.needs if name in untold), None)
        verdict = skipped(f"Can't be told before this is well: {blocker}.") if blocker else _look(check, subject)
        if blocker or verdict.state is State.FAILED:
            untold[check.name] = blocker or check.title
        yield Finding(check.name, check.title, verdict.state, verdict.message, verdict.hint)


def worst(findings: Iterable[Finding]) -> State:
    """The state of the whole; what was skipped doesn't count."""
    states = {finding.state for finding in findings}
    return next((state for state in (State.FAILED, State.WARNING) if state in states), State.OK)


def _look(check: Check, subject: Subject) -> Verdict:
    try:
        return check.look(subject)
    except ArcbackupdError as error:
        return failed(error.message, error.hint)
    except OSError as error:
        return failed(f"{describe(error)}.", "The kernel's log may tell more: `journalctl -k`.")

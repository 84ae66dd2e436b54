"""What an operation tells while it works: the journal, the client and the tests listen to the same stream."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeAlias, TypeVar


@dataclass(frozen=True)
class Step:
    """The operation goes on to another step; ``name`` is for programs, ``text`` for people."""

    type: ClassVar[str] = "step"
    name: str
    text: str


@dataclass(frozen=True)
class Progress:
    """How far a step is: bytes of SQL, the table at hand and its rows, seconds since the step began and to go."""

    type: ClassVar[str] = "progress"
    bytes: int
    table: str | None
    rows: int
    elapsed_s: float
    total_bytes: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something worth knowing that doesn't stop the operation."""

    type: ClassVar[str] = "notice"
    text: str
    hint: str = ""


Event: TypeAlias = Step | Progress | Notice
Outcome = TypeVar("Outcome")
Steps: TypeAlias = Generator[Event, None, Outcome]
"""An operation at work: yields events, returns its outcome, raises ArcbackupdError. Closing it abandons it."""


def as_dict(event: Event) -> dict[str, object]:
    """The event as it travels on the control socket."""
    return {"type": event.type, **asdict(event)}

"""A program to run, as a value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from arcbackupd.errors import OperationFailed
from arcbackupd.log import MASK


@dataclass(frozen=True)
class Command:
    """A program to run. Secrets go into ``environment``, never into ``argv``; ``name`` is for messages."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    name: str = ""

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.name or self.argv[0].rpartition("/")[2]

    def shown(self) -> str:
        """As a shell would take it, with the values of its environment masked where they are secret."""
        variables = (f"{name}={MASK if _is_secret(name) else value}" for name, value in self.environment.items())
        return shlex.join([*(("env", *variables) if self.environment else ()), *self.argv])


def _is_secret(name: str) -> bool:
    return "PASS" in name


class TimedOut(OperationFailed):
    """The program didn't end in time, or stopped writing; it was killed."""

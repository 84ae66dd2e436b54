"""Throwaway database containers: of the same image as the installation's database, and cut off from everything.

What is loaded into one may be hostile, and runs there as a superuser of the server: it has no network, no volume
of anybody's, no right beyond those that the image's entry point needs, and can't gain one. All that it has goes
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command

if TYPE_CHECKING:
    from arcbackupd.stack.engine import Engine

LABEL = "io.arcsecond.arcbackupd.drill"
"""Its value is the daemon that the container belongs to."""
_NEEDED = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")
"""Capabilities by which the official image's entry point gives directories to the server and becomes its user."""
_MEMORY = 2 << 30
_PROCESSES = 256
_CPU_SHARES = 128
"""Of 1024, which every other container has, for when processors are scarce."""


class MakeCommand(Protocol):
    """Makes a command of the engine's client."""

    def __call__(self, *argv: str, environment: Mapping[str, str] | None = None, name: str = "") -> Command: ...


@dataclass(frozen=True)
class Throwaways:
    """Those of one daemon, its ``owner``. ``like`` is the name of the database's container."""

    owner: str
    like: str
    command: MakeCommand
    inspect: Callable[..., list[Mapping[str, Any]]]
    engine: Callable[[str], Engine]
    """Makes an engine whose database is the one in a container."""

    def run(self, name: str, user: str, password: str) -> Command:
        """The command that creates and starts one; it makes its server's data first. Raise OperationFailed."""
        model = next(iter(self.inspect(self.like)), None)
        if model is None:
            hint = "Correct engine.database in the configuration."
            raise OperationFailed("container-missing", f"There is no container {self.like} to be like.", hint=hint)
        variables = {"POSTGRES_USER": user, "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"}
        return self.command(
            "run",
            "--detach",
            "--pull=never",
            f"--name={name}",
            f"--label={LABEL}={self.owner}",
            "--network=none",
            "--restart=no",
            "--no-healthcheck",
            # The server must be the first process: that is how it is told from the one that only makes the data.
            "--init=false",
            "--cap-drop=ALL",
            *(f"--cap-add={capability}" for capability in _NEEDED),
            "--security-opt=no-new-privileges",
            f"--memory={_MEMORY}",
            f"--pids-limit={_PROCESSES}",
            f"--cpu-shares={_CPU_SHARES}",
            *_as_large(model.get("HostConfig") or {}),
            *(word for variable in variables for word in ("--env", variable)),
            str(model["Image"]),
            environment=variables,
            name="run",
        )

    def runs(self, name: str) -> bool:
        """Whether one runs. Raise OperationFailed when that can't be told."""
        return any(told["State"]["Running"] for told in self.inspect(name))

    def last_words(self, name: str) -> Command:
        """The command that tells what one wrote last."""
        return self.command("logs", "--tail=20", name, name="logs")

    def remove(self, name: str) -> Command:
        """The command that ends and removes one, with the volumes that its image made."""
        return self.command("rm", "--force", "--volumes", name, name="rm")

    def left(self) -> Command:
        """The command that tells the ids of all there are, a line each."""
        chosen = ("--all", "--quiet", "--no-trunc", f"--filter=label={LABEL}={self.owner}")
        return self.command("ps", *chosen, name="ps")


def _as_large(host_config: Mapping[str, Any]) -> Sequence[str]:
    """Shared memory and limits of the database's container: with less, what fits there might not fit here."""
    shm = host_config.get("ShmSize")
    limits = host_config.get("Ulimits") or []
    return (
        *((f"--shm-size={shm}",) if shm else ()),
        *(f"--ulimit={_limit(each)}" for each in limits),
    )


def _limit(told: Mapping[str, Any]) -> str:
    name = str(told["Name"]).lower().removeprefix("rlimit_")  # podman has RLIMIT_NOFILE, docker nofile
    return f"{name}={told['Soft']}:{told['Hard']}"

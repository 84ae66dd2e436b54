"""Docker, and podman through its API socket: the same command line, but for how each is reached."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.command import Command
from arcbackupd.stack.direct import DirectDialogue, DirectOutput, DirectPath
from arcbackupd.stack.engine import ContainerRun, HealthCheck, Labelled, ServiceState
from arcbackupd.stack.events import TOLD, parse_time
from arcbackupd.stack.process import Dialogue, Finished, Output, Stream, run
from arcbackupd.stack.throwaway import Throwaways

_INSPECT_TIMEOUT = 15
_PODMAN_SOCKET = "unix:///run/podman/podman.sock"
_COMPOSE_SERVICE = "com.docker.compose.service"
_COMPOSE_NEEDS = "com.docker.compose.depends_on"
"""``db:service_healthy:false,broker:service_started:true``: services of the project, with condition and restart."""
# What the engine takes where a health check leaves it out.
_HEALTH_INTERVAL = 30_000_000_000
_HEALTH_RETRIES = 3
_NOT_FOUND = re.compile(r"\b(?:pg_dump|psql): not found")
"""How a shell in the container says that it has no such program."""
_NO_SHELL = re.compile(r"""["'`]sh["'`]:? (?:executable file )?not found""")


class ContainerEngine:
    """Containers of the installation, by their names, through the ``docker`` or ``podman`` command line.

    ``podman`` goes through its API socket: what its command line starts by itself would live in the daemon's
    sandbox and control group, and die with them.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._kind = settings.kind

    def in_database(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        niceness: Niceness = NORMAL,
        fed: bool = False,
    ) -> Command:
        """See `Engine.in_database`. The names of the variables are arguments, their values are not."""
        names = [word for name in environment for word in ("--env", name)]
        interactive = ("--interactive",) if fed else ()
        return self._command(
            "exec",
            *interactive,
            *names,
            self._settings.database,
            *niceness.wrapper(),
            *argv,
            environment=environment,
            name=argv[0],
        )

    def open_output(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Output:
        """See `Engine.open_output`."""
        if self._settings.data_path == "stream":
            return Stream(self.in_database(argv, environment, niceness=niceness))
        return DirectOutput(self._direct_path(environment, niceness=niceness), argv)

    def open_dialogue(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Dialogue:
        """See `Engine.open_dialogue`."""
        if self._settings.data_path == "stream":
            return Dialogue(self.in_database(argv, environment, niceness=niceness, fed=True))
        return DirectDialogue(self._direct_path(environment, niceness=niceness), argv)

    def _direct_path(self, environment: Mapping[str, str], *, niceness: Niceness) -> DirectPath:
        make = partial(self.in_database, environment=environment, niceness=niceness, fed=True)
        return DirectPath(make, self._database_root, forced=self._settings.data_path == "direct")

    def _database_root(self) -> Path:
        """The root directory of the database's container, as the host sees it."""
        pids = [str(told["State"]["Pid"]) for told in self._inspect(self._settings.database)]
        return Path("/proc", *(pids or ["0"]), "root")

    def in_backend(self, argv: tuple[str, ...]) -> Command:
        """See `Engine.in_backend`; the image's working directory is the project's."""
        return self._command("exec", self._settings.backend, *argv, name=" ".join(argv[:3]))

    def backend_run(self) -> ContainerRun | None:
        """See `Engine.backend_run`."""
        inspected = self._inspect_backend()
        if inspected is None:
            return None
        state = inspected["State"]
        if not state["Running"]:
            return None
        return ContainerRun(
            identity=f"{inspected['Id']} {state['StartedAt']}",
            image=inspected["Image"],
            container=inspected["Id"],
            started_at=parse_time(state["StartedAt"]),
            pid=state["Pid"],
            addresses=network_addresses(inspected.get("NetworkSettings") or {}),
            health=_health_check(inspected["Config"].get("Healthcheck") or {}),
        )

    def backend_exists(self) -> bool:
        """See `Engine.backend_exists`."""
        return self._inspect_backend() is not None

    def watch_backend(self) -> Command | None:
        """See `Engine.watch_backend`."""
        return self._command(
            "events",
            "--filter=type=container",
            *(f"--filter=event={action}" for action in TOLD),
            f"--filter=container={self._settings.backend}",
            "--format={{json .}}",
        )

    def services(self) -> list[ServiceState]:
        """See `Engine.services`; what Compose noted at the containers says which needs which."""
        found = self._inspect(*self._settings.services) if self._settings.services else []
        named = {_labels(told).get(_COMPOSE_SERVICE): _name(told) for told in found}
        states = [_service_state(told, named) for told in found]
        return sorted(states, key=lambda state: self._settings.services.index(state.name))

    def start_service(self, name: str) -> Command:
        """See `Engine.start_service`."""
        return self._command("start", name, name=f"{self._kind} start {name}")

    def stop_service(self, name: str) -> Command:
        """See `Engine.stop_service`."""
        return self._command("stop", name, name=f"{self._kind} stop {name}")

    def version(self) -> str:
        """See `Engine.version`: of the engine itself, not of its command line."""
        told = self._ask("version", "--format={{.Server.Version}}").decode("utf-8", "replace").strip()
        return f"{self._kind.capitalize()} {told}"

    def state_of(self, name: str) -> ServiceState | None:
        """See `Engine.state_of`."""
        return next((_service_state(told, {}) for told in self._inspect(name)), None)

    def labelled(self, label: str) -> list[Labelled]:
        """The containers that have a label, in the order of their names. Raise OperationFailed as `version`."""
        identities = self._ask("ps", "--all", "--quiet", f"--filter=label={label}").decode("ascii").split()
        found = self._inspect(*identities) if identities else []
        labelled = [
            Labelled(_name(told), str(told["Config"]["Image"]), bool(told["State"]["Running"]), _labels(told))
            for told in found
        ]
        return sorted(labelled, key=lambda container: container.name)

    def database_addresses(self) -> tuple[str, ...]:
        """See `Engine.database_addresses`."""
        found = self._inspect(self._settings.database)
        return network_addresses(found[0].get("NetworkSettings") or {}) if found else ()

    def throwaways(self, owner: str) -> Throwaways:
        """See `Engine.throwaways`."""

        def beside(container: str) -> ContainerEngine:
            return ContainerEngine(self._settings.model_copy(update={"database": container}))

        return Throwaways(owner, self._settings.database, self._command, self._inspect, beside)

    def explain(self, finished: Finished) -> ArcbackupdError | None:
        """See `Engine.explain`."""
        text = finished.error.lower()
        name = self._settings.database
        if "no such container" in text:
            hint = f"Create it with `{self._kind} compose up -d`, or correct engine.database in the configuration."
            return OperationFailed("container-missing", f"The database container {name} does not exist.", hint=hint)
        if "is not running" in text or "can only create exec sessions on running containers" in text:
            hint = f"Start it: `{self._kind} start {name}`."
            return OperationFailed("container-stopped", f"The database container {name} is not running.", hint=hint)
        if "is paused" in text:
            hint = f"Let it go on: `{self._kind} unpause {name}`."
            return OperationFailed("container-paused", f"The database container {name} is paused.", hint=hint)
        if _NO_SHELL.search(text):
            hint = 'Do without it: engine.data_path = "stream", dump.niceness = 0, dump.io_class = "normal".'
            return OperationFailed(
                "no-shell", f"{name} has no sh, which pg_dump and psql are started by.", hint=hint
            )
        if "executable file not found" in text or _NOT_FOUND.search(text):
            hint = f"engine.database must name the PostgreSQL container; {name} has no pg_dump and psql."
            return OperationFailed("not-a-database", f"{name} lacks PostgreSQL's programs.", hint=hint)
        return self._unreachable(text)

    def _unreachable(self, text: str) -> ArcbackupdError | None:
        if "permission denied" in text and "socket" in text:
            hint = "Run the daemon as root, or give its user access to the engine's socket."
            return OperationFailed("engine-denied", f"{self._kind} denies access to its socket.", hint=hint)
        if "cannot connect to the docker daemon" in text or "unable to connect to podman" in text:
            unit = "docker" if self._kind == "docker" else "podman.socket"
            hint = f"Start it: `systemctl start {unit}`."
            return OperationFailed("engine-down", f"The {self._kind} engine is not running.", hint=hint)
        return None

    def _inspect_backend(self) -> Mapping[str, Any] | None:
        return next(iter(self._inspect(self._settings.backend)), None)

    def _inspect(self, *names: str) -> list[Mapping[str, Any]]:
        """What the engine tells of containers; nothing of those that don't exist."""
        # Without a format: in templates docker and podman disagree on names, and docker on what isn't set.
        finished = run(self._command("inspect", "--type=container", *names), timeout=_INSPECT_TIMEOUT)
        if finished.status:
            self._raise_unless_missing(finished)
        return list(json.loads(finished.output or b"[]"))

    def _raise_unless_missing(self, finished: Finished) -> None:
        if "no such" in finished.error.lower():
            return
        raise self._failure(finished, f"inspect {self._settings.backend}")

    def _ask(self, *argv: str) -> bytes:
        """What the engine answers. Raise OperationFailed."""
        finished = run(self._command(*argv), timeout=_INSPECT_TIMEOUT)
        if finished.status:
            raise self._failure(finished, " ".join(argv[:1]))
        return finished.output

    def _failure(self, finished: Finished, asked: str) -> ArcbackupdError:
        return self.explain(finished) or OperationFailed(
            "engine-failed",
            f"{self._kind} {asked.split()[0]} failed: {finished.error}",
            hint=f"Try `{self._kind} {asked}` by hand.",
        )

    def _command(self, *argv: str, environment: Mapping[str, str] | None = None, name: str = "") -> Command:
        return Command((*self._program(), *argv), {**self._engine_environment(), **(environment or {})}, name=name)

    def _program(self) -> tuple[str, ...]:
        if self._kind == "podman":
            return ("podman", "--remote", "--url", self._settings.socket or _PODMAN_SOCKET)
        return ("docker",)

    def _engine_environment(self) -> dict[str, str]:
        docker_socket = self._kind == "docker" and self._settings.socket
        return {"DOCKER_HOST": docker_socket} if docker_socket else {}


def network_addresses(network: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in what the engine tells of a container's network settings."""
    places = [network, *(network.get("Networks") or {}).values()]
    found = (place.get(key) for place in places if place for key in ("IPAddress", "GlobalIPv6Address"))
    return tuple(dict.fromkeys(address for address in found if address))


def _service_state(told: Mapping[str, Any], named: Mapping[str | None, str]) -> ServiceState:
    state = told["State"]
    health = (state.get("Health") or {}).get("Status")
    needs = [entry.partition(":")[0] for entry in _labels(told).get(_COMPOSE_NEEDS, "").split(",")]
    return ServiceState(
        _name(told),
        running=bool(state["Running"]),
        started_at=str(state["StartedAt"]),
        restarting=bool(state.get("Restarting")),
        health=health if health in ("starting", "healthy", "unhealthy") else None,
        needs=frozenset(named[need] for need in needs if need and need in named),
    )


def _name(told: Mapping[str, Any]) -> str:
    return str(told["Name"]).lstrip("/")


def _labels(told: Mapping[str, Any]) -> Mapping[str, str]:
    return told["Config"].get("Labels") or {}


def _health_check(told: Mapping[str, Any]) -> HealthCheck | None:
    if told.get("Test", ["NONE"])[:1] in ([], ["NONE"]):
        return None
    return HealthCheck(
        start_period=timedelta(microseconds=(told.get("StartPeriod") or 0) / 1000),
        interval=timedelta(microseconds=(told.get("Interval") or _HEALTH_INTERVAL) / 1000),
        retries=told.get("Retries") or _HEALTH_RETRIES,
    )

"""Docker, and podman through its API socket: the same command line, but for how each is reached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.engine import NICE, ContainerRun, ServiceState
from arcbackupd.stack.process import Command, Finished, run

_INSPECT_TIMEOUT = 30
_PODMAN_SOCKET = "unix:///run/podman/podman.sock"
_STATE = "{{json .State.Running}},{{json .State.StartedAt}},{{json .Image}}"
# podman's client goes by the names of Go's fields, not by those of the JSON
_INSPECT = {"docker": "[{{json .Id}}," + _STATE + "]", "podman": "[{{json .ID}}," + _STATE + "]"}
_SERVICE = "[{{json .Name}},{{json .State}},{{json .Config.Labels}}]"
_ADDRESSES = "{{json .NetworkSettings}}"
_COMPOSE_SERVICE = "com.docker.compose.service"
_COMPOSE_NEEDS = "com.docker.compose.depends_on"
"""``db:service_healthy:false,broker:service_started:true``: services of the project, with condition and restart."""


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
        low_priority: bool = False,
        fed: bool = False,
    ) -> Command:
        """See `Engine.in_database`. The names of the variables are arguments, their values are not."""
        names = [word for name in environment for word in ("--env", name)]
        priority = NICE if low_priority else ()
        interactive = ("--interactive",) if fed else ()
        return self._command(
            "exec",
            *interactive,
            *names,
            self._settings.database,
            *priority,
            *argv,
            environment=environment,
            name=argv[0],
        )

    def in_backend(self, argv: tuple[str, ...]) -> Command:
        """See `Engine.in_backend`; the image's working directory is the project's."""
        return self._command("exec", self._settings.backend, *argv, name=" ".join(argv[:3]))

    def backend_run(self) -> ContainerRun | None:
        """See `Engine.backend_run`."""
        finished = self._inspect(_INSPECT[self._kind], self._settings.backend)
        if finished.status:
            return None
        identity, running, started, image = json.loads(finished.output)
        return ContainerRun(f"{identity} {started}", image) if running else None

    def watch_backend(self) -> Command | None:
        """See `Engine.watch_backend`."""
        return self._command(
            "events",
            "--filter=type=container",
            "--filter=event=start",
            f"--filter=container={self._settings.backend}",
            "--format={{json .}}",
        )

    def services(self) -> list[ServiceState]:
        """See `Engine.services`; what Compose noted at the containers says which needs which."""
        finished = self._inspect(_SERVICE, *self._settings.services)
        found = [json.loads(line) for line in finished.output.splitlines() if line.startswith(b'["')]
        named = {(labels or {}).get(_COMPOSE_SERVICE): name.lstrip("/") for name, _, labels in found}
        states = [_service_state(name.lstrip("/"), state, labels or {}, named) for name, state, labels in found]
        return sorted(states, key=lambda state: self._settings.services.index(state.name))

    def start_service(self, name: str) -> Command:
        """See `Engine.start_service`."""
        return self._command("start", name, name=f"{self._kind} start {name}")

    def stop_service(self, name: str) -> Command:
        """See `Engine.stop_service`."""
        return self._command("stop", name, name=f"{self._kind} stop {name}")

    def database_addresses(self) -> tuple[str, ...]:
        """See `Engine.database_addresses`."""
        finished = self._inspect(_ADDRESSES, self._settings.database)
        if finished.status:
            return ()
        return network_addresses(json.loads(finished.output))

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
        if "executable file not found" in text:
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

    def _inspect(self, template: str, *names: str) -> Finished:
        """What the engine tells of containers, a line each; of those that don't exist it tells nothing."""
        command = self._command("inspect", "--type=container", f"--format={template}", *names)
        finished = run(command, timeout=_INSPECT_TIMEOUT)
        if finished.status:
            self._raise_unless_missing(finished)
        return finished

    def _raise_unless_missing(self, finished: Finished) -> None:
        if "no such" in finished.error.lower():
            return
        raise self.explain(finished) or OperationFailed(
            "engine-failed",
            f"{self._kind} inspect failed: {finished.error}",
            hint=f"Try `{self._kind} inspect {self._settings.backend}` by hand.",
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


def network_addresses(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in what the engine tells of a container's network settings."""
    networks = [settings, *(settings.get("Networks") or {}).values()]
    found = [network.get(key) for network in networks if network for key in ("IPAddress", "GlobalIPv6Address")]
    return tuple(dict.fromkeys(address for address in found if address))


def _service_state(
    name: str, state: Mapping[str, Any], labels: Mapping[str, str], named: Mapping[str | None, str]
) -> ServiceState:
    health = (state.get("Health") or {}).get("Status")
    needs = [entry.partition(":")[0] for entry in labels.get(_COMPOSE_NEEDS, "").split(",")]
    return ServiceState(
        name,
        running=bool(state["Running"]),
        started_at=str(state["StartedAt"]),
        restarting=bool(state.get("Restarting")),
        health=health if health in ("starting", "healthy", "unhealthy") else None,
        needs=frozenset(named[need] for need in needs if need and need in named),
    )

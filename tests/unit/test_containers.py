"""What docker and podman tell of containers, read in both their shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.settings import Engine
from arcbackupd.stack.containers import ContainerEngine, network_addresses
from arcbackupd.stack.engine import ServiceState
from arcbackupd.stack.process import Finished

DOCKER_STATE = {
    "Status": "running", "Running": True, "Paused": False, "Restarting": False, "OOMKilled": False, "Dead": False,
    "Pid": 7, "ExitCode": 0, "Error": "", "StartedAt": "2026-01-01T10:00:00.123456789Z",
    "FinishedAt": "0001-01-01T00:00:00Z",
}  # fmt: skip
PODMAN_STATE = {
    "OciVersion": "1.2.0", "Status": "running", "Running": True, "Paused": False, "Restarting": False, "Pid": 7,
    "StartedAt": "2026-01-01T10:00:00.123456789Z", "Health": {"Status": "", "FailingStreak": 0, "Log": None},
    "CgroupPath": "/machine.slice", "CheckpointedAt": "0001-01-01T00:00:00Z",
}  # fmt: skip
STARTED = "2026-01-01T10:00:00.123456789Z"


def labels(service: str, *needs: str) -> dict[str, str]:
    said = ",".join(f"{need}:service_started:false" for need in needs)
    return {"com.docker.compose.service": service, "com.docker.compose.depends_on": said}


def container(name: str, state: dict[str, Any], of: dict[str, str] | None) -> dict[str, Any]:
    return {"Name": name, "State": state, "Config": {"Labels": of}}


@pytest.fixture(name="told")
def _told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands where docker and podman stand, and says what a test gives it."""

    def tell(*containers: dict[str, Any], error: str = "", status: int = 0) -> None:
        (tmp_path / "out").write_text(json.dumps(containers))
        (tmp_path / "err").write_text(error)
        for program in ("docker", "podman"):
            path = tmp_path / program
            path.write_text(f"#!/bin/sh\ncat {tmp_path}/out\ncat {tmp_path}/err >&2\nexit {status}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return tell


def engine(kind: str = "docker", *services: str) -> ContainerEngine:
    return ContainerEngine(Engine.model_validate({"kind": kind, "services": services or ("arcsecond-api", "web")}))


@pytest.mark.parametrize(("kind", "slash", "base"), [("docker", "/", DOCKER_STATE), ("podman", "", PODMAN_STATE)])
def test_services_are_read_in_the_shapes_of_docker_and_podman(
    told: Any, kind: str, slash: str, base: dict[str, Any]
) -> None:
    told(
        container(f"{slash}web", base, labels("web", "api", "broker")),
        container(f"{slash}arcsecond-api", base, labels("api", "db")),
    )
    assert engine(kind).services() == [
        ServiceState("arcsecond-api", True, STARTED),
        ServiceState("web", True, STARTED, needs=frozenset({"arcsecond-api"})),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (True, False, None)),
        ({"Running": False, "Status": "exited"}, (False, False, None)),
        ({"Restarting": True}, (True, True, None)),
        ({"Health": {"Status": "starting"}}, (True, False, "starting")),
        ({"Health": {"Status": "healthy"}}, (True, False, "healthy")),
        ({"Health": {"Status": "unhealthy"}}, (True, False, "unhealthy")),
        ({"Health": {"Status": "none"}}, (True, False, None)),
        ({"Health": {"Status": ""}}, (True, False, None)),
        ({"Health": None}, (True, False, None)),
    ],
)
def test_run_restart_and_health_are_told_apart(told: Any, change: dict[str, Any], expected: object) -> None:
    told(container("/web", {**DOCKER_STATE, **change}, None))
    (found,) = engine().services()
    assert (found.running, found.restarting, found.health) == expected


def test_conditions_and_strangers_in_depends_on_are_no_names(told: Any) -> None:
    of = {
        "com.docker.compose.service": "web",
        "com.docker.compose.depends_on": "api:service_healthy:true,db:service_started:false,,gone",
    }
    told(container("/web", DOCKER_STATE, of), container("/arcsecond-api", DOCKER_STATE, labels("api")))
    assert {found.name: found.needs for found in engine().services()} == {
        "arcsecond-api": frozenset(),
        "web": frozenset({"arcsecond-api"}),
    }


def test_containers_without_labels_need_nothing(told: Any) -> None:
    told(container("/web", DOCKER_STATE, None), container("/arcsecond-api", DOCKER_STATE, {}))
    assert [found.needs for found in engine().services()] == [frozenset(), frozenset()]


def test_services_that_do_not_exist_are_left_out_and_the_order_is_the_configuration_s(told: Any) -> None:
    told(
        container("/c", DOCKER_STATE, None),
        container("/a", DOCKER_STATE, None),
        error="Error response from daemon: No such container: b\n",
        status=1,
    )
    assert [found.name for found in engine("docker", "a", "b", "c").services()] == ["a", "c"]


def test_an_engine_that_does_not_answer_is_an_error_and_not_no_services(told: Any) -> None:
    told(error="Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", status=1)
    with pytest.raises(OperationFailed) as caught:
        engine().services()
    assert caught.value.code == "engine-down"


def test_a_failure_in_words_that_nobody_knows_is_an_error_too(told: Any) -> None:
    told(error="template parsing error", status=64)
    with pytest.raises(OperationFailed, match="template parsing error") as caught:
        engine().services()
    assert caught.value.code == "engine-failed"


# Addresses

DOCKER_28 = {
    "Bridge": "", "Ports": {}, "IPAddress": "172.17.0.2", "GlobalIPv6Address": "",
    "Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        (DOCKER_28, ("172.17.0.2",)),
        ({"Networks": {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.1.0.2"}}}, ("10.0.0.2", "10.1.0.2")),
        ({"Networks": {"a": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": "fd00::2"}}}, ("10.0.0.2", "fd00::2")),
        ({"IPAddress": "", "Networks": {"host": {"IPAddress": "", "GlobalIPv6Address": ""}}}, ()),
        ({"IPAddress": "10.88.0.3", "Networks": None}, ("10.88.0.3",)),
        ({"Networks": {"a": None}}, ()),
        ({}, ()),
    ],
)
def test_the_addresses_of_all_networks_are_found_once(settings: dict[str, Any], addresses: tuple[str, ...]) -> None:
    assert network_addresses(settings) == addresses


def test_the_database_s_addresses_are_asked_for_and_none_are_told_of_one_that_is_missing(told: Any) -> None:
    told({"NetworkSettings": DOCKER_28})
    assert engine().database_addresses() == ("172.17.0.2",)
    told(error="Error: No such container: arcsecond-db", status=1)
    assert engine().database_addresses() == ()


# Commands


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_fed_program_has_its_input_and_no_value_of_a_variable_in_its_arguments(kind: str) -> None:
    command = engine(kind).in_database(("psql", "-X"), {"PGPASSWORD": "geheim"}, fed=True)
    place = command.argv.index("exec")
    assert command.argv[place:] == (
        "exec", "--interactive", "--env", "PGPASSWORD", "arcsecond-db", "psql", "-X",
    )  # fmt: skip
    assert "geheim" not in " ".join(command.argv)
    assert "--interactive" not in engine(kind).in_database(("psql",), {}).argv


@pytest.mark.parametrize(("kind", "program"), [("docker", "docker"), ("podman", "podman --remote")])
def test_services_are_started_and_stopped_by_their_names(kind: str, program: str) -> None:
    for command, verb in ((engine(kind).start_service("web"), "start"), (engine(kind).stop_service("web"), "stop")):
        assert command.argv[-2:] == (verb, "web")
        assert command.shown().startswith(program)


# What went wrong


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("arcbackupd: 1: exec: pg_dump: not found", "not-a-database"),  # dash
        ("arcbackupd: exec: line 1: pg_dump: not found", "not-a-database"),  # busybox
        ("arcbackupd: line 1: exec: psql: not found", "not-a-database"),  # bash
        ('exec: "pg_dump": executable file not found in $PATH: unknown', "not-a-database"),
        ('exec: "sh": executable file not found in $PATH: unknown', "no-shell"),
        ("Error: crun: executable file `sh` not found in $PATH: No such file or directory", "no-shell"),
        ("pg_dump: error: query failed", None),
    ],
)
def test_what_a_container_lacks_is_told_by_its_name(said: str, code: str | None) -> None:
    error = engine("docker").explain(Finished(127, b"", said))
    assert (error and error.code) == code

"""Command lines of throwaway containers, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command
from arcbackupd.stack.throwaway import LABEL, Throwaways

MODEL = {
    "Image": "sha256:1234",
    "HostConfig": {"ShmSize": 1000, "Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 5, "Hard": 6}]},
}


def throwaways(found: list[Mapping[str, Any]]) -> Throwaways:
    def command(*argv: str, environment: Mapping[str, str] | None = None, name: str = "") -> Command:
        return Command(("docker", *argv), environment or {}, name=name)

    return Throwaways("me", "db", command, lambda *_: found, cast("Any", None))


def test_one_is_like_the_database_s_container_cut_off_and_has_its_secret_in_its_environment_alone() -> None:
    command = throwaways([MODEL]).run("drill-1", "joe", "geheim")
    words = set(command.argv)
    assert command.argv[-1] == "sha256:1234"
    assert {"--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--label={LABEL}=me"} <= words
    assert {"--shm-size=1000", "--ulimit=nofile=5:6", "--restart=no", "--pull=never", "--init=false"} <= words
    assert not [word for word in words if "geheim" in word or word.startswith(("--volume", "-v", "--publish"))]
    assert command.environment["POSTGRES_PASSWORD"] == "geheim"
    assert "geheim" not in command.shown()


def test_it_is_removed_with_its_volumes_and_found_by_whose_it_is() -> None:
    assert throwaways([]).remove("a").argv == ("docker", "rm", "--force", "--volumes", "a")
    assert f"--filter=label={LABEL}=me" in throwaways([]).left().argv


def test_without_a_container_to_be_like_there_is_none() -> None:
    with pytest.raises(OperationFailed) as raised:
        throwaways([]).run("drill-1", "joe", "geheim")
    assert raised.value.code == "container-missing"

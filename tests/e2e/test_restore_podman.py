"""A restore and its rollback once on podman, behind its API socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.restoring import BY_HAND, FOREIGN, NEW, Quick, forged, inserted, quick_stack
from tests.e2e.support import fingerprint
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine, EngineUnavailable
from tests.require import require


@pytest.fixture(scope="module")
def pod_quick(podman_engine: Engine) -> Iterator[Quick]:
    """Return a quick stack on podman."""
    try:
        with quick_stack(podman_engine) as quick:
            yield quick
    except EngineUnavailable as error:
        require("podman", str(error))


def test_restore_and_rollback_on_podman(pod_quick: Quick) -> None:
    """On podman a restore brings the backup's rows, a rollback the ones before; a `\\!` in one is refused."""
    quick = pod_quick.reset()
    stack = quick.stack
    with Daemon(stack, jobs=BY_HAND) as daemon:
        started = stack.state(quick.service)["StartedAt"]
        forged(quick.kept.read_bytes(), inserted(quick.sql, "\\! touch /tmp/it-ran\n"), daemon.path(FOREIGN))
        assert daemon.json("restore", FOREIGN, "--yes", status=1)["error"]["code"] == "unsafe-dump"
        assert stack.exec(stack.database, "ls", "/tmp/it-ran", check=False).returncode != 0
        assert stack.state(quick.service)["StartedAt"] == started
        report = daemon.json("restore", NEW, "--yes", timeout=300)
        assert report["outcome"] == "restored"
        assert fingerprint(stack) == quick.new
        assert stack.state(quick.service)["StartedAt"] != started
        assert daemon.json("rollback", "--yes", timeout=300)["outcome"] == "rolled-back"
        assert fingerprint(stack) == quick.old
        daemon.json("restore", NEW, "--yes", "--in-place", timeout=300)
        assert fingerprint(stack) == quick.new
        assert stack.state(quick.service)["Running"]
        quick.assert_tidy(daemon)

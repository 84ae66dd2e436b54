"""Restore drills through daemon and client on real containers: beside the live database, and in throwaway ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from arcbackupd.daemon import host_id
from arcbackupd.dumps.manifest import Contents
from arcbackupd.installation import read_installation
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.drill.notes import Made, Notes
from arcbackupd.operations.drill.scratch import InContainer
from arcbackupd.operations.events import Steps
from arcbackupd.operations.restore.server import Server
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.containers import ContainerEngine
from arcbackupd.stack.throwaway import LABEL
from tests.e2e.restoring import BY_HAND, FOREIGN, NEW, Quick, call, inserted, quick_stack, with_manifest
from tests.e2e.support import fingerprint
from tests.harness import images
from tests.harness.daemon import Daemon
from tests.harness.engine import LABEL as OF_TESTS
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.own_engine import OwnEngine
from tests.harness.process import wait_until
from tests.harness.stack import PGDATA, ArcsecondStack
from tests.require import require

T = TypeVar("T")
SECONDS = 240.0
"""How long to wait for what makes a new server, on a busy machine."""
HERE = {"place": "database", "max_load": 10_000}
APART = {"place": "container", "max_load": 10_000}
UNJUDGED = {"ignore": ["*"]}
"""Dumps of other databases than the stack's lie here, against which each of its own has lost all."""
ASLEEP = "\nDO $$ BEGIN PERFORM pg_catalog.pg_sleep(600); END $$;\n"
HOSTILE = """
DO $$ BEGIN
    EXECUTE 'CREATE ROLE intruder SUPERUSER';
    EXECUTE $a$COPY (SELECT 1) TO PROGRAM 'touch /tmp/intruder'$a$;
END $$;
ALTER ROLE CURRENT_USER SET work_mem TO '64kB';
"""
ASK = """
import json, socket, sys
for method, parameters in (("Status", {}), ("Verify", {"reference": "latest"})):
    call = {"method": "io.arcsecond.Backups." + method, "parameters": parameters}
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(sys.argv[1])
        daemon.sendall(json.dumps(call).encode() + b"\\0")
        received = b""
        while not received.endswith(b"\\0"):
            received += daemon.recv(65536)
    print(received[:-1].decode())
"""
TWO_PHASES = """\
#!/bin/bash
# As the official image: a server on the socket alone runs scripts after initdb, and is stopped again.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile <(printf '%s\\n' "$POSTGRES_PASSWORD") \\
    --auth scram-sha-256 --encoding UTF8 --locale C.UTF-8 --no-sync --no-instructions
echo "unix_socket_directories = '/var/run/postgresql,/tmp'" >>"$PGDATA/postgresql.conf"
pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
sleep 3
pg_ctl -D "$PGDATA" -m fast -w stop
exec "$@"
"""


@contextmanager
def drilling(stack: ArcsecondStack, drill: dict[str, object] = HERE) -> Iterator[Daemon]:
    with Daemon(stack, jobs=BY_HAND, drill=drill, anomalies=UNJUDGED) as daemon:
        yield daemon


def containers(stack: ArcsecondStack) -> list[str]:
    """Return the names of this stack's throwaway containers: others' tests have theirs on the same engine."""
    notes = Notes(stack.state_dir / "drill.json").all()
    names = stack.engine.run("ps", "--all", f"--filter=label={LABEL}", "--format={{.Names}}").stdout.split()
    return [name for name in names if name in {made.name for made in notes}]


def ours(stack: ArcsecondStack) -> list[str]:
    """Return the throwaway containers of this stack's daemon, by their label: its notes may be gone already."""
    return stack.engine.run("ps", "--all", "--quiet", f"--filter=label={LABEL}={owner(stack)}").stdout.split()


def owner(stack: ArcsecondStack) -> str:
    return hashlib.sha256(f"{host_id()} {stack.state_dir}".encode()).hexdigest()[:32]


def volumes(engine: Engine) -> set[str]:
    return set(engine.run("volume", "ls", "--quiet").stdout.split())


def test_a_drill_beside_the_live_database_proves_the_newest_dump_and_everything_tells_of_it(quick: Quick) -> None:
    with drilling(quick.stack) as daemon:
        name = daemon.json("backup")["name"]
        before, started = fingerprint(quick.stack), quick.started_at()
        job = daemon.json("jobs", "run", "drill")["job"]
        assert (job["last_outcome"], job["last_error"]) == ("done", None)
        said = daemon.ctl("verify", NEW).out
        assert "Loading" in said
        assert f"{NEW} is proved restorable in " in said
        rows = {row["name"]: row for row in daemon.listed()}
        assert rows[name]["proved_at"] is not None
        assert rows[NEW]["proved_in_s"] > 0
        drill = daemon.json("inspect", name)["backup"]["drill"]
        assert (drill["outcome"], drill["place"]) == ("proved", "database")
        status = call(daemon, "Status")
        assert status["drills"]["last"]["name"] == NEW
        assert 0 < status["drills"]["proved"]["load_s"] <= status["drills"]["proved"]["duration_s"]
        assert [problem["code"] for problem in status["problems"]] == []
        assert "proved restorable" in daemon.ctl("list").out
        assert "Proved restorable: " in daemon.ctl("status").out
        assert (fingerprint(quick.stack), quick.started_at()) == (before, started)
        quick.assert_tidy(daemon)
        daemon.restart()
        assert daemon.listed()[0]["proved_at"] == rows[name]["proved_at"]


def test_a_dump_that_fails_its_drill_is_loud_until_a_newer_one_passes(quick: Quick) -> None:
    forged = "backup-20260103-000000.sql.gz"
    contents = Contents(rows={"public.frames": 2, "public.marks": 1, "public.zeniths": 300})
    with drilling(quick.stack) as daemon:
        with_manifest(quick.kept.read_bytes(), daemon.path(forged), contents=contents)
        before = fingerprint(quick.stack)
        drill = daemon.json("verify", forged, status=1)
        assert (drill["outcome"], drill["code"]) == ("failed", "rows-differ")
        assert daemon.log_lines("failed its restore drill")
        [problem] = [p for p in call(daemon, "Status")["problems"] if p["code"] == "drill-failed"]
        assert problem["severity"] == "critical"
        daemon.ctl("status", status=2)
        assert "failed" in daemon.ctl("inspect", forged).out
        with quick.stack.backups.joinpath(forged).open("r+b") as file:
            file.truncate(70_000)
        assert daemon.json("verify", forged, status=1)["code"] == "broken-backup"
        quick.drop_in(inserted(quick.sql, "\nSELECT no_such_function();\n"))
        assert daemon.json("verify", FOREIGN, status=1)["code"] == "load-failed"
        daemon.json("backup")
        daemon.json("jobs", "run", "drill")
        daemon.ctl("status", status=0)
        assert fingerprint(quick.stack) == before
        quick.assert_tidy(daemon)


def test_a_drill_in_a_container_is_cut_off_and_leaves_nothing_even_of_a_hostile_dump(quick: Quick) -> None:
    stack = quick.stack
    with drilling(stack, APART) as daemon:
        before = fingerprint(stack)
        assert daemon.json("verify", NEW, timeout=400)["outcome"] == "proved"
        quick.drop_in(inserted(quick.sql, HOSTILE + ASLEEP))
        with daemon.client("verify", FOREIGN) as client:
            [name] = wait_until(lambda: containers(stack), "a throwaway container", seconds=SECONDS)
            told = json.loads(stack.engine.run("inspect", name).stdout)[0]
            wait_until(
                lambda: "intruder" in stack.exec(name, "ls", "/tmp", check=False).stdout,
                "the hostile dump to have its way in its container",
                seconds=SECONDS,
            )
            host = told["HostConfig"]
            assert (host["NetworkMode"], host["Memory"], host["PidsLimit"]) == ("none", 2 << 30, 256)
            assert "no-new-privileges" in str(host["SecurityOpt"])
            assert [mount for mount in told["Mounts"] if mount["Type"] == "bind"] == []
            password = next(v for v in told["Config"]["Env"] if v.startswith("POSTGRES_PASSWORD=")).partition("=")[
                2
            ]
            assert password not in ("", stack.password)
            call(daemon, "Cancel", operation=call(daemon, "Status")["operation"]["id"])
            assert client.wait(SECONDS) == 1
        wait_until(lambda: not containers(stack), "the container to be gone", seconds=SECONDS)
        assert stack.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'intruder'") == "0"
        assert "intruder" not in stack.exec(stack.database, "ls", "/tmp").stdout
        assert fingerprint(stack) == before
        quick.assert_tidy(daemon)
        last = call(daemon, "Status")["drills"]["last"]
        assert last["name"] == NEW, f"an interrupted drill is no failure, but: {last}"


def test_a_daemon_that_is_killed_in_a_drill_leaves_nothing_once_it_is_back(quick: Quick) -> None:
    stack = quick.stack
    with drilling(stack) as daemon:
        quick.drop_in_held()
        with quick.held():
            with daemon.client("verify", FOREIGN):
                quick.wait_held()
                [left] = quick.databases()
                stack.psql("CREATE DATABASE arcbackupd_drill_of_another", "postgres")
                daemon.kill()
            assert quick.databases() == {left, "arcbackupd_drill_of_another"}
            daemon.start()
            wait_until(lambda: left not in quick.databases(), "the scratch database to be dropped", seconds=SECONDS)
        assert daemon.log_lines("which an interrupted drill left")
        assert quick.databases() == {"arcbackupd_drill_of_another"}
        daemon.stop()
        daemon.configure(drill=APART)
        daemon.start()
        stack.psql("DROP DATABASE arcbackupd_drill_of_another", "postgres")
        quick.drop_in(inserted(quick.sql, ASLEEP))
        with daemon.client("verify", FOREIGN):
            wait_until(lambda: containers(stack), "a throwaway container", seconds=SECONDS)
            daemon.kill()
        [name] = containers(stack)
        (stack.state_dir / "drill.json").unlink()  # its label tells, too
        daemon.start()
        gone = lambda: name not in stack.engine.run("ps", "--all", "--format={{.Names}}").stdout
        wait_until(gone, "the container to be removed", seconds=SECONDS)
        quick.assert_tidy(daemon)


STEPS = {
    "database": ("Creating", "Loading", "Building", "Analyzing", "Comparing", "Dropping"),
    "container": ("Starting", "Creating", "Loading", "Analyzing", "Comparing", "Removing"),
}


@pytest.mark.parametrize("place", STEPS)
@pytest.mark.parametrize("end", [Daemon.kill, Daemon.stop], ids=["killed", "stopped"])
def test_a_daemon_that_ends_at_any_step_of_a_drill_leaves_nothing(
    quick: Quick, place: str, end: Callable[[Daemon], object]
) -> None:
    """At once when it is stopped, once it is back when it was killed; and the live database is as it was."""
    stack = quick.stack
    before, started = fingerprint(stack), quick.started_at()
    with drilling(stack, APART if place == "container" else HERE) as daemon:
        for step in STEPS[place]:
            with daemon.client("verify", NEW) as client:
                assert client.stdout
                assert any(line.startswith(step) for line in client.stdout), step
                end(daemon)
            if end is Daemon.stop:
                assert (quick.databases(), ours(stack)) == (set(), []), step
            daemon.start()
            wait_until(
                lambda: (quick.databases(), ours(stack)) == (set(), []), f"no trace after {step}", seconds=SECONDS
            )
            wait_until(lambda: not Notes(stack.state_dir / "drill.json").all(), "the notes to go", seconds=SECONDS)
        quick.assert_tidy(daemon)
    assert (fingerprint(stack), quick.started_at()) == (before, started)


@pytest.mark.parametrize("place", STEPS)
def test_an_engine_that_restarts_in_a_drill_leaves_nothing_of_it(docker_engine: Engine, place: str) -> None:
    """It stops the live database and the drill's container; an operator starts the former again."""
    tags = [images.postgres(docker_engine, 16), images.backend(docker_engine)]
    try:
        with (
            OwnEngine(docker_engine, tags) as own,
            quick_stack(own.engine) as quick,
        ):
            stack = quick.reset().stack
            before = fingerprint(stack)
            quick.drop_in(inserted(quick.sql, ASLEEP))
            with drilling(stack, APART if place == "container" else HERE) as daemon:
                with daemon.client("verify", FOREIGN) as client:
                    assert client.stdout
                    assert any(line.startswith("Loading") for line in client.stdout)
                    own.restart()
                    stack.start_container(stack.database)
                    stack.wait_database()
                    assert client.wait(SECONDS) == 1
                tidy = lambda: (quick.databases(), ours(stack)) == (set(), [])
                wait_until(tidy, "what the drill made to be removed", seconds=SECONDS)
                stack.start_container(quick.service)
                quick.assert_tidy(daemon)
                assert fingerprint(stack) == before
    except EngineUnavailable as error:
        require("docker", str(error))


def test_containers_of_drills_go_whether_their_label_or_only_a_note_tells_of_them(quick: Quick) -> None:
    """After each drill those with the label; at a start those in the notes too, should the label have changed."""
    stack = quick.stack
    labelled, noted = (f"arcbackupd-drill-{uuid.uuid4().hex[:12]}" for _ in range(2))

    def make(name: str, *arguments: str) -> None:
        labels = ("--label", OF_TESTS, *arguments)
        stack.engine.run(
            "create", *stack.engine.limits(), *labels, "--name", name, images.postgres(stack.engine, 16)
        )

    def names() -> str:
        return stack.engine.run("ps", "--all", "--format={{.Names}}").stdout

    with drilling(stack, APART) as daemon:
        assert daemon.json("verify", NEW, timeout=400)["outcome"] == "proved"
        wait_until(lambda: call(daemon, "Status")["operation"] is None, "what a start does to end", seconds=SECONDS)
        make(labelled, f"--label={LABEL}={owner(stack)}")
        assert daemon.json("verify", NEW, timeout=400)["outcome"] == "proved"
        wait_until(lambda: labelled not in names(), "the container with the label to be removed", seconds=SECONDS)
        daemon.stop()
        make(noted)
        Notes(stack.state_dir / "drill.json").put(Made(kind="container", name=noted))
        daemon.start()
        wait_until(lambda: noted not in names(), "the container in the notes to be removed", seconds=SECONDS)
        wait_until(lambda: not Notes(stack.state_dir / "drill.json").all(), "the note to go", seconds=SECONDS)


SLOW_ENGINE = """\
#!/bin/sh
# An engine goes on with what it was asked for when its client is gone: so does what is started here.
if [ "$1" != run ]; then exec {docker} "$@"; fi
setsid sh -c 'touch {home}/asked; while ! [ -e {home}/go ]; do sleep 0.05; done; {docker} "$@"; touch {home}/made' \
    run "$@" >{home}/said 2>&1 &
wait
"""


def test_a_container_that_was_asked_for_when_its_drill_was_cancelled_is_removed(
    docker_engine: Engine, quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = shutil.which("docker")
    (tmp_path / "docker").write_text(SLOW_ENGINE.format(docker=docker, home=tmp_path))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    engine = ContainerEngine(EngineSettings(kind="docker", socket=docker_engine.url, database=quick.stack.database))
    notes, cancellation = Notes(tmp_path / "drill.json"), Cancellation()
    installation = read_installation(quick.stack.install_dir)
    owner = uuid.uuid4().hex
    scratch = InContainer(engine.throwaways(owner), installation, Server(engine, installation), notes)

    def drill() -> None:
        with pytest.raises(Cancelled):
            _outcome(scratch.open(cancellation))
        _outcome(scratch.remove(Cancellation()))

    with ThreadPoolExecutor(1) as beside:
        drilling = beside.submit(drill)
        wait_until((tmp_path / "asked").exists, "the engine to be asked", seconds=SECONDS)
        cancellation.cancel("somebody asked for it")
        wait([drilling], timeout=2)  # it doesn't end: if it did, what comes now would stay
        (tmp_path / "go").touch()
        drilling.result(SECONDS)
    wait_until((tmp_path / "made").exists, "the engine to have made it", seconds=SECONDS)
    assert docker_engine.run("ps", "--all", "--quiet", f"--filter=label={LABEL}={owner}").stdout == ""
    assert notes.all() == ()


def test_a_start_of_the_backend_never_waits_for_a_drill(stack16: ArcsecondStack) -> None:
    """The boot's dump ends a drill that would have gone on for minutes, and is from before the migrations."""
    with drilling(stack16) as daemon:
        # One by hand would stand for the dump of a start that comes soon after it.
        [name] = daemon.wait_boot_dumps(1, seconds=SECONDS)
        text = gzip.decompress(daemon.path(name).read_bytes()).decode()
        daemon.path(FOREIGN).write_bytes(gzip.compress(inserted(text, ASLEEP).encode()))
        daemon.configure(boot={"min_interval": "1ms"})
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("The configuration was read again")
        with daemon.client("verify", FOREIGN) as client:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            wait_until(lambda: stack16.psql(asleep) == "1", "the drill to be at work", seconds=SECONDS)
            count = len(daemon.names())
            stack16.restart_backend(wait=False)
            names = daemon.wait_boot_dumps(count + 1, seconds=SECONDS)
            assert client.wait(SECONDS) == 1
        stack16.wait_backend()
        assert daemon.json("inspect", names[-1])["backup"]["before_migrations"] is True
        assert daemon.log_lines("was interrupted because a boot dump is wanted now")
        left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'arcbackupd%'"
        wait_until(lambda: stack16.psql(left) == "0", "the scratch database to be dropped", seconds=SECONDS)
        assert call(daemon, "Status")["drills"]["last"] is None


def test_a_member_of_the_group_sees_what_is_proved_and_may_drill_nothing(quick: Quick) -> None:
    with Daemon(quick.stack, jobs=BY_HAND, drill=HERE, control={"group": "nogroup"}) as daemon:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", ASK, str(daemon.stack.control_socket)],
            user="nobody",
            group="nogroup",
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        status, verify = map(json.loads, done.stdout.splitlines())
        assert status["parameters"]["drills"] == {"last": None, "proved": None}
        assert verify["error"] == "io.arcsecond.Backups.Refused"
        assert quick.databases() == set()


def test_the_official_image_s_first_server_is_not_taken_for_the_one_and_its_volume_goes(
    docker_engine: Engine, quick: Quick, tmp_path: Path
) -> None:
    """An image that starts its server twice and declares a volume, as postgres:16 does."""
    model, tag = f"drill-model-{uuid.uuid4().hex[:8]}", f"arcbackupd-test/two-phases:{uuid.uuid4().hex[:8]}"
    entrypoint = tmp_path / "two-phases"
    entrypoint.write_text(TWO_PHASES)
    entrypoint.chmod(0o755)
    create = ("create", *docker_engine.limits(), "--label", OF_TESTS, "--name", model)
    docker_engine.run(*create, images.postgres(docker_engine, 16))
    docker_engine.run("cp", str(entrypoint), f"{model}:/two-phases")
    # A changed entry point takes the command with it.
    changes = (f"--change=VOLUME {PGDATA}", '--change=ENTRYPOINT ["/two-phases"]', '--change=CMD ["postgres"]')
    docker_engine.run("commit", *changes, model, tag)
    docker_engine.run("rm", model)
    docker_engine.run(*create, tag)
    try:
        settings = EngineSettings(kind="docker", socket=docker_engine.url, database=model)
        installation = read_installation(quick.stack.install_dir)
        throwaways = ContainerEngine(settings).throwaways(uuid.uuid4().hex)
        live = Server(ContainerEngine(settings), installation)
        scratch = InContainer(throwaways, installation, live, Notes(tmp_path / "drill.json"))
        server = _outcome(scratch.open(Cancellation()))
        began = server.query("SELECT pg_postmaster_start_time()")
        time.sleep(4)
        assert server.query("SELECT pg_postmaster_start_time()") == began
        [made] = Notes(tmp_path / "drill.json").all()
        [mount] = json.loads(docker_engine.run("inspect", made.name).stdout)[0]["Mounts"]
        assert mount["Name"] in volumes(docker_engine)
        _outcome(scratch.remove(Cancellation()))
        assert mount["Name"] not in volumes(docker_engine)
        assert Notes(tmp_path / "drill.json").all() == ()
    finally:
        docker_engine.run("rm", "-f", "-v", model, check=False)
        docker_engine.run("rmi", "-f", tag, check=False)


def _outcome(steps: Steps[T]) -> T:
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome

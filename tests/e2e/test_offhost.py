"""Copies off the host, by the real daemon and client: uploaded, listed, restored; and when a place fails."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests.harness.daemon import Daemon
from tests.harness.process import wait_until
from tests.harness.s3 import SECRET_KEY, S3Server
from tests.harness.stack import ArcsecondStack

QUIET: dict[str, Any] = {"dump": {"enabled": False}, "upload": {"enabled": False}}
IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture(name="nas")
def _nas(stack16: ArcsecondStack, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "nas"
    path.mkdir()
    (stack16.shared_data / "m31.fits").write_bytes(b"SIMPLE  =  T" * 10_000)
    yield path
    (stack16.shared_data / "m31.fits").unlink()


def directory(path: Path) -> dict[str, Any]:
    return {"type": "directory", "path": str(path), "mount": False}


def stored(daemon: Daemon, name: str) -> list[str]:
    return next(list(row["stored"]) for row in daemon.listed() if row["name"] == name)


def test_what_is_only_elsewhere_is_listed_inspected_and_restored(
    stack16: ArcsecondStack, nas: Path, s3_server: S3Server
) -> None:
    cloud = {"type": "s3", **s3_server.table(s3_server.make_bucket())}
    to = {"to": ["nas", "cloud"]}
    encrypted = {"to": ["cloud"], "encrypt_to": [str(IDENTITY.to_public())]}
    destinations = {"nas": directory(nas), "cloud": cloud}
    upload = {"dumps": to, "secrets": encrypted, "data": {"to": ["nas"]}}
    with Daemon(stack16, jobs=QUIET, destinations=destinations, upload=upload) as daemon:
        daemon.wait_boot_dumps(1)
        name = daemon.json("backup")["name"]
        results = {row["destination"]: row for row in daemon.json("upload")["results"]}
        assert [row["error"] for row in results.values()] == [None, None]
        assert stored(daemon, name) == ["local", "cloud", "nas"]
        assert (nas / "dumps" / name).read_bytes() == (stack16.backups / name).read_bytes()
        assert len([path for path in (nas / "data" / "files").rglob("*") if path.is_file()]) == 1
        rows = stack16.psql("SELECT count(*) FROM observations_photometry")
        (stack16.backups / name).unlink()
        assert stored(daemon, name) == ["cloud", "nas"]
        inspected = daemon.json("inspect", name)["backup"]
        assert (inspected["path"], inspected["manifest"]) == (None, True)
        assert daemon.json("inspect", name, "--verify", status=4)["error"]["code"] == "only-off-host"
        stack16.psql("TRUNCATE observations_photometry")
        report = daemon.json("restore", name, "--yes", timeout=300)
        assert report["outcome"] == "restored"
        assert stack16.psql("SELECT count(*) FROM observations_photometry") == rows
        assert stored(daemon, name) == ["local", "cloud", "nas"]
        assert SECRET_KEY not in daemon.log()
        assert stack16.password not in daemon.log()
        daemon.ctl("discard-replaced", "--yes")


def test_the_job_uploads_what_is_new_by_itself_and_status_says_when(stack16: ArcsecondStack, nas: Path) -> None:
    jobs = {"dump": {"enabled": False}, "upload": {"schedule": "every 2s"}}
    upload = {"dumps": {"to": ["nas"]}}
    with Daemon(stack16, jobs=jobs, destinations={"nas": directory(nas)}, upload=upload) as daemon:
        daemon.wait_boot_dumps(1)
        stack16.psql("CREATE TABLE fresh AS SELECT 1 AS one")
        try:
            name = daemon.json("backup")["name"]
            wait_until(lambda: "nas" in stored(daemon, name), "the upload of the new one")
        finally:
            stack16.psql("DROP TABLE fresh")
        [state] = daemon.json("status")["destinations"]
        assert (state["name"], state["problem"]) == ("nas", None)
        assert state["done_at"]


def test_a_place_that_fails_delays_no_dump_and_is_told(stack16: ArcsecondStack, nas: Path) -> None:
    gone = {"type": "s3", "bucket": "nothing", "endpoint": "http://127.0.0.1:1", "access_key_id": "A",
            "secret_access_key": "hunter2-hunter2"}  # fmt: skip
    destinations = {"nas": directory(nas), "gone": gone}
    upload = {"dumps": {"to": ["gone", "nas"]}}
    with Daemon(stack16, jobs=QUIET, destinations=destinations, upload=upload) as daemon:
        [boot] = daemon.wait_boot_dumps(1)
        with daemon.client("upload") as client:
            assert daemon.json("backup")["name"]
            said, _ = client.communicate(timeout=240)
        assert client.returncode == 1
        assert "nas: " in said
        assert "gone: " in said
        assert "nas" in stored(daemon, boot)
        status = daemon.json("status", status=1)
        assert [problem["code"] for problem in status["problems"]] == ["upload-failed"]
        assert "hunter2" not in daemon.log() + said


def test_a_place_that_never_answers_holds_up_nothing_but_itself(stack16: ArcsecondStack, nas: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hangs = {"type": "s3", "bucket": "observatory", "endpoint": endpoint, "access_key_id": "A",
                 "secret_access_key": "hunter2-hunter2", "timeout": "60s"}  # fmt: skip
        upload = {"dumps": {"to": ["hangs", "nas"]}}
        destinations = {"hangs": hangs, "nas": directory(nas)}
        settings: dict[str, Any] = {"jobs": QUIET, "destinations": destinations, "upload": upload}
        with Daemon(stack16, **settings) as daemon, ExitStack() as clients:
            daemon.wait_boot_dumps(1)
            for arguments in (("upload", "--dry-run"), *(("upload", "hangs") for _ in range(8))):
                clients.enter_context(daemon.client(*arguments))
            wait_until(lambda: _running(daemon) in ("upload", "plan"), "the one that hangs")
            name = daemon.json("backup", timeout=60)["name"]
            assert daemon.json("upload", "nas", timeout=60)["results"][0]["error"] is None
            assert stored(daemon, name) == ["local", "nas"]
            assert daemon.json("upload", "hangs", "--dry-run", status=6)["error"]["code"] == "busy"
            daemon.signal(signal.SIGHUP)
            daemon.wait_log("The configuration was read again", 30)
            assert stored(daemon, name) == ["local", "nas"]
            began = time.monotonic()
            assert daemon.stop(seconds=60) == 0
            assert time.monotonic() - began < 30


def _running(daemon: Daemon) -> str:
    rows = daemon.json("status", status=None)["destinations"]
    return next(str(row["running"]) for row in rows if row["name"] == "hangs")


def test_a_host_that_was_lost_comes_back_from_a_bucket_alone(
    stack16: ArcsecondStack, nas: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    """Containers of the same images, an empty database, no files: `recover` brings all of it back."""
    bucket = s3_server.make_bucket()
    cloud = {"type": "s3", **s3_server.table(bucket)}
    encrypted = {"to": ["cloud"], "encrypt_to": [str(IDENTITY.to_public())]}
    upload = {"dumps": encrypted, "secrets": encrypted, "data": encrypted}
    with Daemon(stack16, jobs=QUIET, destinations={"cloud": cloud}, upload=upload) as daemon:
        daemon.wait_boot_dumps(1)
        daemon.json("upload")
        assert daemon.stop() == 0
    env, image = (stack16.install_dir / ".env").read_bytes(), (stack16.shared_data / "m31.fits").read_bytes()
    rows = stack16.psql("SELECT count(*), md5(string_agg(t::text, '' ORDER BY id)) FROM observations_photometry t")
    stack16.stop_container(stack16.backend)
    stack16.psql(f'DROP DATABASE "{stack16.db}" WITH (FORCE)', "postgres")
    stack16.create_database(stack16.db)
    for path in (stack16.shared_data, stack16.state_dir):
        shutil.rmtree(path)
    (stack16.install_dir / ".env").unlink()
    identity = tmp_path / "identity.txt"
    identity.write_text(str(IDENTITY))
    arguments = ["--config", str(daemon.config), "--identity", str(identity)]
    done = subprocess.run(
        [sys.executable, "-m", "arcbackupd", "recover", *arguments],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **stack16.engine.env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (stack16.install_dir / ".env").read_bytes() == env
    assert (stack16.shared_data / "m31.fits").read_bytes() == image
    found = stack16.psql("SELECT count(*), md5(string_agg(t::text, '' ORDER BY id)) FROM observations_photometry t")
    assert found == rows
    assert stack16.password not in done.stdout + done.stderr
    stack16.start_container(stack16.backend)
    stack16.wait_backend()

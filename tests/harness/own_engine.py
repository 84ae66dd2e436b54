"""A Docker engine of a test's own, which may be restarted: the shared one serves other tests too.

with OwnEngine(docker(), images=[…]) as own:
    ArcsecondStack(own.engine, …)
    own.restart()
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.harness.engine import START_SECONDS, Engine, EngineUnavailable, work_dir
from tests.harness.process import wait_until


class OwnEngine:
    """A second dockerd with directories of its own and some images of the first; a context manager."""

    def __init__(self, source: Engine, images: Sequence[str]) -> None:
        """Plan an engine that has these images of another one."""
        self._source = source
        self._images = list(images)
        self._process: subprocess.Popen[bytes] | None = None
        self._home = Path()
        self._run = Path()

    @property
    def engine(self) -> Engine:
        """Return how to reach it."""
        return Engine("docker", f"unix://{self._run}/docker.sock")

    def __enter__(self) -> OwnEngine:
        if os.geteuid() != 0:
            raise EngineUnavailable("only root may start a Docker engine")
        work_dir().mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix="engine-", dir=work_dir()))
        self._run = Path(tempfile.mkdtemp(prefix="arcbackupd-test-", dir="/run"))
        try:
            self.start()
            self._take_images()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def restart(self) -> None:
        """Stop it as its unit does, which stops its containers, and start it again."""
        self.stop()
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        config = self._home / "daemon.json"
        config.write_text("{}\n", encoding="utf-8")
        places = ["--data-root", str(self._home / "data"), "--exec-root", str(self._run / "exec")]
        places += ["--pidfile", str(self._run / "pid")]
        network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "--host", self.engine.url, "--config-file", str(config), *places, *network],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.engine.answers, "a Docker engine of the test's own", seconds=START_SECONDS, interval=0.2)

    def stop(self) -> None:
        """Stop it, and its containers with it; nothing happens when it doesn't run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_SECONDS)
            self._process = None

    def _take_images(self) -> None:
        """Hand over the images from one engine to the other, as they come."""
        with subprocess.Popen(
            self._source.argv("save", *self._images),
            env={**os.environ, **self._source.env},
            stdout=subprocess.PIPE,
        ) as saving:
            load = self.engine.argv("load", "--quiet")
            env = {**os.environ, **self.engine.env}
            subprocess.run(load, env=env, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True, timeout=300)

    def _end(self) -> None:
        self.stop()
        for directory in (self._home, self._run):
            shutil.rmtree(directory, ignore_errors=True)

"""A real OpenSSH server for SFTP, on a free port of the loopback interface, with keys of its own.

with SftpServer(tmp_path / "ssh") as server:
    server.rclone_table("nas")      lines for rclone's configuration
    server.command()                what connects to it, as restic takes it

Whoever runs the tests logs in with the server's own key. Without a shell it is as appliances have it: files can be
moved and nothing else be run, so that no hash is to be had.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
from pathlib import Path

from tests.harness.process import run, wait_until
from tests.harness.tools import tool

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {home}/host_key
AuthorizedKeysFile {home}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp
{force}
"""


class SftpServer:
    """One server; a context manager. Its keys and its log are in ``home``, which is made."""

    def __init__(self, home: Path, *, shell: bool = True) -> None:
        self.home = home
        self.user = getpass.getuser()
        self.port = free_port()
        self.key = home / "user_key"
        self._shell = shell

    def __enter__(self) -> SftpServer:
        self.home.mkdir(mode=0o755)
        for name in ("host_key", "user_key", "strange_key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / name)])
        force = "" if self._shell else "ForceCommand internal-sftp"
        (self.home / "config").write_text(_CONFIG.format(port=self.port, home=self.home, force=force))
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it again after `stop`, on the same port and with the same keys."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it goes there to be nobody
        argv = [tool("sftp"), "-D", "-e", "-f", str(self.home / "config")]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, f"sshd; see {self.home / 'log'}")

    def stop(self) -> None:
        """End it; connections that are open stay so."""
        self._process.kill()
        self._process.wait()

    def rclone_table(self, name: str, *, port: int = 0, key: Path | None = None) -> str:
        """Return a remote for rclone's configuration; through another port when a proxy stands before."""
        port = port or self.port
        lines = {
            "type": "sftp",
            "host": "127.0.0.1",
            "port": port,
            "user": self.user,
            "key_file": key or self.key,
            "known_hosts_file": self._known_hosts(port),
        }
        return f"[{name}]\n" + "".join(f"{option} = {value}\n" for option, value in lines.items())

    def command(self, *, port: int = 0, key: Path | None = None) -> str:
        """Return the command line of a client that speaks SFTP on its input and output."""
        port = port or self.port
        options = ("IdentitiesOnly=yes", f"UserKnownHostsFile={self._known_hosts(port)}", "BatchMode=yes")
        argv = ["ssh", "-F", "none", "-p", str(port), "-i", str(key or self.key)]
        argv += [f"-o{option}" for option in options]
        return shlex.join([*argv, f"{self.user}@127.0.0.1", "-s", "sftp"])

    def _known_hosts(self, port: int) -> Path:
        path = self.home / f"known_hosts_{port}"
        path.write_text(f"[127.0.0.1]:{port} {(self.home / 'host_key.pub').read_text()}")
        return path

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.home / "log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def free_port() -> int:
    """Return a port of the loopback interface that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

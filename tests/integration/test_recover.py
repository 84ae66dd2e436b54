"""The disaster: a host is gone, and an empty one gets everything back from what was uploaded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.offhost.offhost import Lasting, OffHost
from arcbackupd.operations.queue import OperationQueue
from arcbackupd.settings import load_settings
from tests.harness.s3 import S3Server
from tests.harness.tools import tool
from tests.integration.stand import PASSWORD, Stand, filled

pytestmark = pytest.mark.postgres

IDENTITY = pyrage.x25519.Identity.generate()


@dataclass
class Host:
    """An installation beside a database, with a place that it uploads to."""

    stand: Stand
    nas: Path

    @property
    def config(self) -> Path:
        return self.stand.home / "config.toml"

    @property
    def shared(self) -> Path:
        return self.stand.home / "shared"

    def set_up(self, *, encrypted: bool, place: str = "") -> None:
        """Configure uploads; ``place`` is the table of the destination, if it isn't the directory."""
        place = place or f'type = "directory"\npath = "{self.nas}"\nmount = false'
        to = f'{{ to = ["nas"], encrypt_to = ["{IDENTITY.to_public()}"] }}' if encrypted else '{ to = ["nas"] }'
        secrets = "" if not encrypted else f"secrets = {to}"
        text = self.config.read_text().partition("[destinations.nas]")[0]
        upload = f"[upload]\ndumps = {to}\ndata = {to}\n{secrets}\n"
        self.config.write_text(f"{text}\n[destinations.nas]\n{place}\n{upload}")

    def upload(self) -> None:
        async def main() -> None:
            settings = load_settings(self.config)
            catalogue = Catalogue(settings.state_dir / "catalogue.json")
            backups = Backups(settings, self.stand.engine, OperationQueue(), "gone", lambda: None, catalogue)
            off_host = OffHost(settings, backups, Lasting())
            [place] = off_host.used
            await off_host.upload(place).result

        asyncio.run(main())

    def lose(self) -> None:
        """All that was on the host goes: files, state, the database's contents."""
        self.stand.servers_databases().drop(self.stand.database)
        self.stand.server.create_database(self.stand.database)
        shutil.rmtree(self.shared)
        shutil.rmtree(self.stand.home / "state")
        (self.stand.home / ".env").unlink()

    def recover(self, *arguments: str | Path, config: str = "config.toml") -> subprocess.CompletedProcess[str]:
        chosen = ["--config", str(self.stand.home / config), *map(str, arguments)]
        command = [sys.executable, "-m", "arcbackupd", "recover", *chosen]
        state = {**os.environ, "STATE_DIRECTORY": str(self.stand.home / "state")}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=state)

    def tree(self) -> dict[str, tuple[object, ...]]:
        """Everything below the shared data but the dumps: kind, mode, owner, time, contents."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.shared.rglob("*")):
            name = str(path.relative_to(self.shared))
            if name.split("/")[0] == "db_backups":
                continue
            status = path.lstat()
            what = str(path.readlink()) if path.is_symlink() else ""
            data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
            mtime = 0 if path.is_symlink() else status.st_mtime_ns
            found[name] = (status.st_mode, status.st_uid, status.st_gid, mtime, what, data)
        return found


@pytest.fixture(name="host")
def _host(make_stand: Callable[..., Stand], tmp_path: Path) -> Iterator[Host]:
    nas = tmp_path / "nas"
    nas.mkdir()
    host = Host(filled(make_stand()), nas)
    (host.stand.home / "docker-compose.yml").write_text("services: {}\n")
    (host.stand.home / ".env").chmod(0o600)
    night = host.shared / "2026" / "night 1"
    night.mkdir(parents=True)
    (night / "m31 é#?%.fits").write_bytes(os.urandom(2_000_000))
    (night / "m31 é#?%.fits").chmod(0o640)
    (host.shared / "empty").mkdir(mode=0o750)
    (host.shared / ".hidden").write_bytes(b"")
    (host.shared / "link").symlink_to("2026/night 1")
    if os.geteuid() == 0:
        os.chown(night, 1234, 1235)
    env = (host.stand.home / ".env").read_bytes()
    yield host
    (host.stand.home / ".env").write_bytes(env)  # the stand needs it for tidying up


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture(name="identity")
def _identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.txt"
    path.write_text(f"# public key: {IDENTITY.to_public()}\n{IDENTITY}\n")
    return path


def test_an_empty_host_gets_back_database_secrets_and_shared_data(host: Host, identity: Path) -> None:
    host.set_up(encrypted=True)
    name = host.stand.take()
    host.upload()
    env, contents, tree = (host.stand.home / ".env").read_bytes(), host.stand.contents(), host.tree()
    host.lose()
    done = host.recover("--identity", identity)
    assert done.returncode == 0, done.stderr
    assert (host.stand.home / ".env").read_bytes() == env
    assert (host.stand.home / ".env").stat().st_mode & 0o777 == 0o600
    assert host.stand.contents() == contents
    assert host.tree() == tree
    assert f"Restored {name} into {host.stand.database}" in done.stdout
    assert host.stand.ours() == []
    for told in (done.stdout, done.stderr):
        assert PASSWORD not in told
        assert "AGE-SECRET" not in told


def _restic(nas: Path) -> str:
    tool("restic")
    environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(nas)}
    subprocess.run(["restic", "--no-cache", "init"], check=True, capture_output=True, env=environment)
    return f'type = "restic"\nrepository = "{nas}"\npassword = "x"'


def _rclone(nas: Path) -> str:
    tool("rclone")
    config = nas.with_name("rclone.conf")
    config.write_text(f"[there]\ntype = alias\nremote = {nas}\n")
    return f'type = "rclone"\nremote = "there:"\nconfig = "{config}"'


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["restic", "rclone", "s3"])
def test_every_type_of_destination_gives_everything_back(
    host: Host, identity: Path, kind: str, s3_server: S3Server
) -> None:
    if kind == "s3":
        table = s3_server.table(s3_server.make_bucket())
        place = 'type = "s3"\n' + "\n".join(f'{key} = "{value}"' for key, value in table.items())
    else:
        place = _restic(host.nas) if kind == "restic" else _rclone(host.nas)
    host.set_up(encrypted=True, place=place)
    host.stand.take()
    host.upload()
    env, contents, tree = (host.stand.home / ".env").read_bytes(), host.stand.contents(), host.tree()
    host.lose()
    done = host.recover("--identity", identity)
    assert done.returncode == 0, done.stderr
    assert (host.stand.home / ".env").read_bytes() == env
    assert host.stand.contents() == contents
    assert host.tree() == tree


def test_without_a_configuration_a_place_on_the_command_line_will_do(host: Host, identity: Path) -> None:
    host.set_up(encrypted=True)
    host.stand.take()
    host.upload()
    tree = host.tree()
    env = (host.stand.home / ".env").read_bytes()
    host.lose()
    arguments = ("--from", host.nas, "--identity", identity, "--install-dir", host.stand.home, "--no-restore")
    done = host.recover(*arguments, config="none.toml")
    assert done.returncode == 0, done.stderr
    assert (host.stand.home / ".env").read_bytes() == env
    assert host.tree() == tree
    assert len(list((host.shared / "db_backups").glob("backup-*"))) == 1


def test_a_dry_run_tells_every_action_and_does_none(host: Host, identity: Path) -> None:
    host.set_up(encrypted=True)
    name = host.stand.take()
    host.upload()
    host.lose()
    done = host.recover("--identity", identity, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"write {host.stand.home}/.env (mode 0600)" in done.stdout
    assert f"write 2 files of shared data below {host.shared}, 2,000,000 bytes" in done.stdout
    assert f"fetch {name}" in done.stdout
    assert f"restore {name}" in done.stdout
    assert not host.shared.exists()
    assert not (host.stand.home / ".env").exists()
    assert PASSWORD not in done.stdout


def test_what_a_clock_named_that_ran_ahead_is_not_the_newest_there(host: Host, identity: Path) -> None:
    host.set_up(encrypted=True)
    old = host.stand.backups / host.stand.take()
    old.rename(old.with_name("backup-20990101-000000.sql.gz"))
    host.stand.sql("DELETE FROM t WHERE id > 9")
    name = host.stand.take()
    host.upload()
    host.lose()
    assert f"fetch {name}" in host.recover("--identity", identity, "--dry-run").stdout


def test_begun_again_it_goes_on_and_leaves_what_is_the_same(host: Host, identity: Path) -> None:
    host.set_up(encrypted=True)
    host.stand.take()
    host.upload()
    contents, tree = host.stand.contents(), host.tree()
    host.lose()
    assert host.recover("--identity", identity, "--no-restore").returncode == 0
    (host.shared / ".hidden").unlink()
    done = host.recover("--identity", identity)
    assert done.returncode == 0, done.stderr
    assert "1 files of shared data written" in done.stdout
    assert (host.stand.contents(), host.tree()) == (contents, {**tree, ".": tree.get(".")} if "." in tree else tree)


@pytest.mark.parametrize("there", [".env", "shared/.hidden", "database"])
def test_nothing_that_is_there_is_replaced(host: Host, identity: Path, there: str) -> None:
    host.set_up(encrypted=True)
    host.stand.take()
    host.upload()
    host.lose()
    if there == "database":
        host.stand.sql("CREATE TABLE mine ()")
    else:
        path = host.stand.home / there
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    done = host.recover("--identity", identity)
    assert done.returncode == 4, done.stderr
    assert "already" in done.stderr
    assert "hint: " in done.stderr
    if there == "database":
        assert host.stand.sql("SELECT to_regclass('mine')") == "mine"
    else:
        assert (host.stand.home / there).read_text() == "mine"


def test_without_the_identity_it_says_which_file_is_needed(host: Host) -> None:
    host.set_up(encrypted=True)
    host.stand.take()
    host.upload()
    host.lose()
    done = host.recover()
    assert done.returncode == 4
    assert "is encrypted" in done.stderr
    assert "--identity FILE" in done.stderr


def test_a_file_that_was_changed_there_is_refused(host: Host) -> None:
    host.set_up(encrypted=False)
    env = (host.stand.home / ".env").read_text()
    host.stand.take()
    host.upload()
    host.lose()
    (host.stand.home / ".env").write_text(env)
    stored = max((path for path in (host.nas / "data" / "files").rglob("*") if path.is_file()), key=_size)
    first, *rest = stored.read_bytes()
    stored.write_bytes(bytes([first ^ 1, *rest]))
    done = host.recover()
    assert done.returncode == 1
    assert "its SHA-256 differs" in done.stderr
    assert not list((host.shared / "2026").rglob("*.fits"))
    assert not list(host.shared.rglob("*recovering*"))


def test_a_daemon_that_runs_is_not_worked_beside(host: Host) -> None:
    host.set_up(encrypted=False)
    import fcntl

    with (host.stand.home / "state" / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = host.recover()
    assert done.returncode == 6
    assert "Another arcbackupd uses" in done.stderr

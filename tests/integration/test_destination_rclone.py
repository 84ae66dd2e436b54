"""rclone's remotes as destinations: a directory, and a real SFTP server that is cut off, refuses or is away."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arcbackupd.destinations import PARTIAL, DestinationError, Transfer
from arcbackupd.destinations.programs import LocalFile, nothing
from arcbackupd.destinations.rclone import RcloneDestination, RcloneSettings
from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.harness.sftp import SftpServer, free_port
from tests.harness.tools import tool
from tests.integration.destination_contract import (
    LARGE,
    SMALL,
    DestinationContract,
    EnoughError,
    Progress,
    Put,
    digest,
    fetched,
    keys,
)
from tests.integration.destination_contract import _put as _put
from tests.require import require

pytestmark = pytest.mark.slow  # real servers, cut off and silent

DAY = 24 * 60 * 60
SECRET = "secret-that-must-not-be-seen"


def made(remote: str, tmp_path: Path, config: str = "", **settings: Any) -> RcloneDestination:
    tool("rclone")
    path = tmp_path / "rclone.conf"
    path.write_text(config)
    return RcloneDestination("nas", RcloneSettings(remote=remote, config=path, **settings), tmp_path / "state")


def files(directory: Path) -> list[str]:
    """Return all files below a directory, what is on its way too."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


@pytest.fixture(name="nas")
def _nas(tmp_path: Path) -> Path:
    nas = tmp_path / "nas"
    nas.mkdir()
    return nas


@pytest.fixture(name="destination")
def _destination(nas: Path, tmp_path: Path) -> RcloneDestination:
    return made(f":local:{nas}", tmp_path)


@pytest.fixture(name="sftp", params=[True, False], ids=["with a shell", "without a shell"])
def _sftp(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SftpServer]:
    with SftpServer(tmp_path / "ssh", shell=request.param) as server:
        yield server


@pytest.fixture(name="proxy")
def _proxy(sftp: SftpServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(sftp.port) as proxy:
        yield proxy


@pytest.fixture(name="far")
def _far(sftp: SftpServer, proxy: CuttingProxy, nas: Path, tmp_path: Path) -> RcloneDestination:
    """The directory as it is seen through the SFTP server and the proxy."""
    return made(f"nas:{nas}", tmp_path, sftp.rclone_table("nas", port=proxy.port))


@pytest.fixture(name="bucket", scope="module")
def _bucket() -> Iterator[tuple[str, str]]:
    """A bucket, and rclone's configuration for it."""
    with S3Server() as server:
        yield (
            server.make_bucket(),
            (
                f"[cloud]\ntype = s3\nprovider = Other\nendpoint = {server.url}\n"
                f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n"
            ),
        )


@pytest.mark.slow
class TestContractLocal(DestinationContract):
    """What every destination does, in a directory."""


@pytest.mark.slow
class TestContractSftp(DestinationContract):
    """What every destination does, over SFTP."""

    @pytest.fixture(name="destination")
    @staticmethod
    def _destination(far: RcloneDestination) -> RcloneDestination:
        return far


@pytest.mark.slow
class TestContractS3(DestinationContract):
    """What every destination does, in a bucket: where there are no directories, and a move is a copy."""

    names = ("with spaces  in it.sql.gz", "ünïcödé-星-🌌", "hash#question?percent%20plus+and&equals=", "a/b/c")

    @pytest.fixture(name="destination")
    @staticmethod
    def _destination(bucket: tuple[str, str], tmp_path: Path) -> RcloneDestination:
        name, config = bucket
        return made(f"cloud:{name}/{tmp_path.name}", tmp_path, config)


# What arrives


def test_a_file_arrives_with_the_time_at_which_it_came_and_nothing_else_stays(
    destination: RcloneDestination, nas: Path, tmp_path: Path
) -> None:
    source = tmp_path / "old"
    source.write_bytes(SMALL)
    os.utime(source, (0, 0))
    destination.put(source, "dumps/file", Transfer())
    assert files(nas) == ["dumps/file"]
    (file,) = destination.list("dumps")
    assert abs(file.modified_at.timestamp() - time.time()) < 60


def test_a_link_is_followed(destination: RcloneDestination, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SMALL)
    (tmp_path / "link").symlink_to("file")
    destination.put(tmp_path / "link", "dumps/file", Transfer())
    assert fetched(destination, "dumps/file") == SMALL


def test_a_directory_that_has_the_name_stays_as_it_is(destination: RcloneDestination, nas: Path, put: Put) -> None:
    put("dumps/file/below")
    with pytest.raises(DestinationError) as raised:
        put("dumps/file")
    assert raised.value.code == "destination-conflict"
    assert files(nas) == ["dumps/file/below"]


def test_a_name_that_is_not_utf_8_is_refused(put: Put) -> None:
    with pytest.raises(DestinationError, match="UTF-8") as raised:
        put("dumps/\udcff")
    assert raised.value.code == "destination-failed"


@pytest.mark.parametrize("verify", ["hash", "size", "download"])
def test_what_arrives_cut_or_changed_is_found_by_what_is_asked_for(verify: str, nas: Path, tmp_path: Path) -> None:
    destination = made(f":local:{nas}", tmp_path, verify=verify)
    source = tmp_path / "source"
    source.write_bytes(SMALL)
    destination.put(source, "dumps/file", Transfer())
    for arrived in (SMALL[:-1], SMALL[:-1] + b"X"):
        (nas / "arrived").write_bytes(arrived)
        if verify == "size" and len(arrived) == len(SMALL):
            continue
        with pytest.raises(DestinationError) as raised:
            destination._verify({"arrived": LocalFile.of("nas", source)}, "arrived", nothing)
        assert raised.value.code == "destination-damaged"


def test_progress_is_told_every_second_under_a_limit(destination: RcloneDestination, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(LARGE[: 6 << 20])
    moments = [time.monotonic()]
    destination.put(
        tmp_path / "source", "dumps/file", Transfer(lambda _: moments.append(time.monotonic()), limit=2 << 20)
    )
    assert len(moments) > 3
    assert max(after - before for before, after in pairwise(moments)) < 2


def test_a_program_that_tests_left_running_is_ended(destination: RcloneDestination, nas: Path, put: Put) -> None:
    with pytest.raises(EnoughError):
        put("dumps/file", LARGE, Transfer(Progress(cancel_after=1), limit=1 << 20))
    assert files(nas) == []
    assert subprocess.run(["pgrep", "-f", f"rclone.*{nas}"], capture_output=True).stdout == b""


# Many


def many(tmp_path: Path, names: list[str]) -> list[tuple[Path, str]]:
    for number, name in enumerate(names):
        (tmp_path / f"source {number}").write_bytes(name.encode())
    return [(tmp_path / f"source {number}", name) for number, name in enumerate(names)]


def test_many_files_arrive_together_whatever_their_names(
    destination: RcloneDestination, nas: Path, tmp_path: Path
) -> None:
    names = ["a/1", "a/ 2 ", "a/#3;", "b/deep/er/4", "top", "a/line\nfeed", "*/[x]", "-x/5", "# c/6", "é/7"]
    progress = Progress()
    destination.put_all(many(tmp_path, names), Transfer(progress))
    assert files(nas) == sorted(names)
    assert all((nas / name).read_bytes() == name.encode() for name in names)
    assert progress.total == sum(len(name.encode()) for name in names)
    assert list((tmp_path / "state").iterdir()) == []


def test_many_files_go_into_directories_that_are_there(destination: RcloneDestination, tmp_path: Path) -> None:
    destination.put_all(many(tmp_path, ["a/b/1", "a/b/2", "c/3"]), Transfer())
    destination.put_all(many(tmp_path, ["a/b/4", "a/b/5", "c/d/6"]), Transfer())
    assert keys(destination, "a") == ["a/b/1", "a/b/2", "a/b/4", "a/b/5"]
    assert keys(destination, "c") == ["c/3", "c/d/6"]


def test_of_many_one_that_is_taken_stays_as_it_is(
    destination: RcloneDestination, nas: Path, tmp_path: Path
) -> None:
    (nas / "a").mkdir()
    (nas / "a/2").write_bytes(b"older")
    with pytest.raises(DestinationError, match="a/2") as raised:
        destination.put_all(many(tmp_path, ["a/1", "a/2", "b/3"]), Transfer())
    assert raised.value.code == "destination-conflict"
    assert (nas / "a/2").read_bytes() == b"older"
    assert not any(PARTIAL in name for name in files(nas))


def test_many_that_are_cancelled_leave_nothing_behind(
    destination: RcloneDestination, nas: Path, tmp_path: Path
) -> None:
    sources = many(tmp_path, ["a/1", "a/2"])
    sources[0][0].write_bytes(LARGE)
    with pytest.raises(EnoughError):
        destination.put_all(sources, Transfer(Progress(cancel_after=1), limit=1 << 20))
    assert files(nas) == []


# What was left


def test_only_what_uploads_left_longer_than_a_day_ago_is_removed(destination: RcloneDestination, nas: Path) -> None:
    partial = nas / PARTIAL
    now = int(time.time())
    old, young = now - DAY - 60, now - DAY + 600
    for name in (f"{old}-aa", f"{young}-bb", f"{old}-cc/a/1", f"{young}-dd/a/1", "of somebody else's"):
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SMALL)
    destination.check()
    assert files(partial) == sorted([f"{young}-bb", f"{young}-dd/a/1", "of somebody else's"])


# What is wrong


def test_a_directory_that_does_not_exist_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DestinationError) as raised:
        made(f":local:{tmp_path}/nowhere", tmp_path).check()
    assert raised.value.code == "destination-missing"
    assert "rclone mkdir" in raised.value.hint


def test_a_remote_that_is_not_configured_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DestinationError) as raised:
        made("other:backups", tmp_path).check()
    assert raised.value.code == "destination-missing"
    assert "rclone config" in raised.value.hint


def test_a_configuration_that_does_not_exist_is_named(tmp_path: Path) -> None:
    settings = RcloneSettings(remote="nas:backups", config=tmp_path / "rclone.conf")
    with pytest.raises(DestinationError, match=r"rclone\.conf") as raised:
        RcloneDestination("nas", settings, tmp_path / "state").check()
    assert raised.value.code == "destination-missing"


@pytest.mark.parametrize(
    "remote", ["nas", "/srv/backups", "", ":", "-x:a", "nas,pass=x:a", ":sftp,pass=x:a", "nas:a\nb"]
)
def test_a_remote_that_is_none_or_holds_options_is_refused(remote: str) -> None:
    with pytest.raises(ValidationError):
        RcloneSettings(remote=remote)


@pytest.mark.parametrize(
    ("remote", "location"),
    [
        ("nas:backups/a b/", "rclone://nas/backups/a%20b"),
        ("nas:/srv", "rclone://nas//srv"),
        ("nas:", "rclone://nas"),
        (":local:/mnt/nas", "rclone://:local//mnt/nas"),
    ],
)
def test_its_location_is_the_remote(remote: str, location: str, tmp_path: Path) -> None:
    assert RcloneDestination("nas", RcloneSettings(remote=remote), tmp_path).location == location


def test_a_full_disk_is_told_as_such(put: Put, destination: RcloneDestination, nas: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "nas", nas], capture_output=True).returncode:
        require("root", "only root may mount a filesystem")
    try:
        with pytest.raises(DestinationError) as raised:
            put("dumps/file", LARGE)
        assert raised.value.code == "destination-full"
        assert files(nas) == []
    finally:
        subprocess.run(["umount", nas], check=True)


def test_no_secret_of_its_configuration_shows(tmp_path: Path) -> None:
    obscured = subprocess.run(
        ["rclone", "obscure", SECRET], capture_output=True, text=True, check=True
    ).stdout.strip()
    config = (
        f"[web]\ntype = webdav\nurl = http://user:{SECRET}@127.0.0.1:{free_port()}/\nuser = me\npass = {obscured}\n"
        f"[s3]\ntype = s3\nprovider = Other\nendpoint = http://127.0.0.1:{free_port()}\n"
        f"access_key_id = AKIA\nsecret_access_key = {SECRET}\n"
    )
    for remote in ("web:backups", "s3:bucket"):
        with pytest.raises(DestinationError) as raised:
            made(remote, tmp_path, config).check()
        error = raised.value
        assert error.code == "destination-unreachable"
        assert error.passing
        assert SECRET not in f"{error} {error.hint}"
        assert obscured not in f"{error} {error.hint}"


def test_rclone_is_asked_for_where_it_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = RcloneDestination.problem()
    assert found is not None
    assert "not installed" in found[0]
    assert "apt install rclone" in found[1]
    old = tmp_path / "rclone"
    old.write_text("#!/bin/sh\necho rclone v1.53.3-DEV\n")
    old.chmod(0o755)
    found = RcloneDestination.problem()
    assert found is not None
    assert "older" in found[0]


# A server far away


def test_a_file_is_verified_by_hash_where_the_server_has_a_shell(far: RcloneDestination, sftp: SftpServer) -> None:
    assert bool(far._hash()) == sftp._shell


def test_a_key_that_is_not_let_in_is_denied(sftp: SftpServer, nas: Path, tmp_path: Path) -> None:
    table = sftp.rclone_table("nas", key=sftp.home / "strange_key")
    with pytest.raises(DestinationError) as raised:
        made(f"nas:{nas}", tmp_path, table).check()
    assert raised.value.code == "destination-denied"
    assert not raised.value.passing


def test_another_host_in_its_place_is_denied(sftp: SftpServer, nas: Path, tmp_path: Path) -> None:
    table = sftp.rclone_table("nas")
    known = sftp.home / f"known_hosts_{sftp.port}"
    known.write_text(f"[127.0.0.1]:{sftp.port} {(sftp.home / 'strange_key.pub').read_text()}")
    with pytest.raises(DestinationError) as raised:
        made(f"nas:{nas}", tmp_path, table).check()
    assert raised.value.code == "destination-denied"


def test_a_server_that_is_away_is_unreachable_soon(far: RcloneDestination, sftp: SftpServer) -> None:
    sftp.stop()
    started = time.monotonic()
    for use in (far.check, lambda: far.list("dumps"), lambda: far.delete("dumps/file"), lambda: far.read("a/b", 1)):
        with pytest.raises(DestinationError) as raised:
            use()
        assert raised.value.code == "destination-unreachable"
        assert raised.value.passing
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_server_that_never_answers_is_unreachable(far: RcloneDestination, proxy: CuttingProxy) -> None:
    proxy.break_after(0, "hang")
    started = time.monotonic()
    with pytest.raises(DestinationError) as raised:
        far.check()
    assert raised.value.code == "destination-unreachable"
    assert time.monotonic() - started < 60


def failure(destination: RcloneDestination, source: Path) -> DestinationError | None:
    """Store a file, and return why it couldn't be."""
    try:
        destination.put(source, "dumps/file", Transfer())
    except DestinationError as error:
        return error
    return None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_upload_that_is_cut_again_and_again_is_whole_in_the_end_and_there_once(
    seed: int, far: RcloneDestination, proxy: CuttingProxy, nas: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    places = random.Random(seed)
    for _ in range(4):
        proxy.break_after(places.randrange(1000, len(LARGE)), "cut", stays=False)
        failed = failure(far, source)
        assert failed is None or failed.passing or failed.code == "destination-conflict", failed
        assert files(nas) in ([], ["dumps/file"])
    proxy.pass_on()
    if not far.list("dumps"):
        far.put(source, "dumps/file", Transfer())
    assert files(nas) == ["dumps/file"]
    assert digest((nas / "dumps/file").read_bytes()) == digest(LARGE)


@pytest.mark.slow
def test_what_a_server_that_went_away_kept_is_no_key(
    far: RcloneDestination, proxy: CuttingProxy, nas: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    proxy.break_after(len(LARGE) // 2, "cut")
    with pytest.raises(DestinationError) as raised:
        far.put(source, "dumps/file", Transfer())
    assert raised.value.passing
    assert all(name.startswith(PARTIAL) for name in files(nas))
    proxy.pass_on()
    assert far.list("dumps") == []
    far.put(source, "dumps/file", Transfer())
    assert keys(far) == ["dumps/file"]


@pytest.mark.slow
def test_a_download_that_is_cut_is_told_and_comes_whole_the_next_time(
    far: RcloneDestination, proxy: CuttingProxy, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    far.put(source, "dumps/file", Transfer())
    proxy.break_after(len(LARGE) // 2, "cut")
    with pytest.raises(DestinationError) as raised:
        fetched(far, "dumps/file")
    assert raised.value.passing
    proxy.pass_on()
    assert digest(fetched(far, "dumps/file")) == digest(LARGE)

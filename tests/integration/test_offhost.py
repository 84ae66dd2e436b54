"""Copies off this host: of dumps that aren't there yet, secrets, shared data; what of them comes back."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pyrage
import pytest

from arcbackupd.destinations import DestinationError, StoredFile, Transfer
from arcbackupd.destinations.directory import DirectoryDestination
from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.dumps.writer import FileRights, IncomingDump, sweep_partials
from arcbackupd.encryption import decrypt
from arcbackupd.errors import OperationFailed, Refused, UsageError
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.offhost import moving
from arcbackupd.operations.offhost.data import decode_index
from arcbackupd.operations.offhost.memory import DestinationMemory
from arcbackupd.operations.offhost.offhost import Lasting, OffHost, load
from arcbackupd.operations.offhost.staging import StagedFile, Staging
from arcbackupd.operations.offhost.upload import UploadOutcome, UploadPlan
from arcbackupd.operations.queue import OperationQueue
from arcbackupd.settings import Settings, load_settings
from arcbackupd.stack import open_engine
from tests.unit import sample_dumps
from tests.unit.sample_dumps import copy, dump

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
PASSWORD = "Geheim-im-Test-4711"
HOST = "this-host"
NAMES = [f"backup-2026010{day}-120000.sql.gz" for day in range(1, 6)]


class Site:
    """An installation with dumps and shared data, and what a daemon knows of it, anew for each question."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nas = home / "nas"
        self.clock_doubt: str | None = None
        self.host = HOST
        for path in (self.nas, home / "install", home / "state", self.backups):
            path.mkdir(parents=True)
        (home / "install" / ".env").write_text(f"SHARED_DATA_PATH={self.shared}\nPOSTGRES_PASSWORD={PASSWORD}\n")
        (home / "install" / "docker-compose.yml").write_text("services: {}\n")
        self.configure()

    @property
    def shared(self) -> Path:
        return self.home / "shared"

    @property
    def backups(self) -> Path:
        return self.shared / "db_backups"

    @property
    def settings(self) -> Settings:
        return load_settings(self.home / "config.toml")

    def configure(self, upload: str = 'dumps.to = ["nas"]', retention: str = "", kind: str = "") -> None:
        kind = kind or f'type = "directory"\npath = "{self.nas}"\nmount = false'
        (self.home / "config.toml").write_text(
            f'install_dir = "{self.home}/install"\nstate_dir = "{self.home}/state"\n'
            f"[destinations.nas]\n{kind}\nretention = {{ {retention} }}\n[upload]\n{upload}\n"
        )

    def forget(self) -> None:
        """Lose what the daemon knows of the destination but for which dumps are there."""
        place = self.off_host().places["nas"]
        (self.home / "state" / "off-host" / "nas" / "memory.json").unlink()
        DestinationMemory(place.memory.directory, place.destination.location).looked(
            place.destination.list("dumps")
        )

    def dump(self, name: str, rows: int = 1, host: str = HOST, text: bytes = b"") -> Path:
        """Put a dump among the backups."""
        text = text or dump(copy(b"public.t", (b"a",), [(b"%d" % row,) for row in range(rows)]))
        path = self.backups / name
        path.write_bytes(sample_dumps.dump_file(text, sample_dumps.manifest(text, host=host)))
        return path

    def off_host(self) -> OffHost:
        settings = self.settings
        catalogue = Catalogue(settings.state_dir / "catalogue.json")
        engine = open_engine(settings.engine)
        backups = Backups(settings, engine, OperationQueue(), self.host, lambda: self.clock_doubt, catalogue)
        off_host = OffHost(settings, backups, Lasting())
        backups.elsewhere = off_host.copies
        return off_host

    def upload(self) -> UploadOutcome:
        async def main() -> UploadOutcome:
            off_host = self.off_host()
            [place] = off_host.used
            return await off_host.upload(place).result

        return asyncio.run(main())

    def fetch(self, name: str, identity: str | None = None) -> str:
        async def main() -> str:
            off_host = self.off_host()
            return await off_host.fetch(name, off_host.copies(), identity).result

        return asyncio.run(main())

    def stored(self) -> list[str]:
        """What is at the destination, under names."""
        return sorted(str(path.relative_to(self.nas)) for path in self.nas.rglob("*") if path.is_file())


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Dumps


def test_what_is_missing_is_uploaded_once_whole_and_the_next_time_nothing_is(site: Site) -> None:
    paths = [site.dump(name, rows) for rows, name in enumerate(NAMES, 1)]
    outcome = site.upload()
    assert (outcome.files, outcome.problems) == (5, ())
    assert site.stored() == [f"dumps/{name}" for name in NAMES]
    assert [sha256(site.nas / "dumps" / path.name) for path in paths] == [sha256(path) for path in paths]
    assert site.upload().files == 0


def test_content_that_is_there_under_another_name_is_not_sent_again(site: Site) -> None:
    first = site.dump(NAMES[0])
    site.upload()
    os.link(first, site.backups / NAMES[1])
    site.dump(NAMES[2])  # the same content, in a file of its own
    assert site.upload().files == 0
    off_host = site.off_host()
    backups = Catalogue(site.home / "other.json").read(site.backups)
    copies = off_host.copies()
    assert [copies.where(backup) for backup in backups] == [("nas",)] * 3


def test_of_equal_dumps_the_newest_is_sent(site: Site) -> None:
    for name in NAMES[:3]:
        site.dump(name)
    site.upload()
    assert site.stored() == [f"dumps/{NAMES[2]}"]


def test_a_broken_dump_stays_here(site: Site) -> None:
    site.dump(NAMES[0])
    (site.backups / NAMES[1]).write_bytes((site.backups / NAMES[0]).read_bytes()[:-10])
    site.upload()
    assert site.stored() == [f"dumps/{NAMES[0]}"]


def test_a_file_of_the_same_name_and_other_contents_is_told_and_never_overwritten(site: Site) -> None:
    site.dump(NAMES[0], 1)
    site.dump(NAMES[1], 2)
    other = site.nas / "dumps" / NAMES[0]
    other.parent.mkdir()
    other.write_bytes(b"somebody else's")
    outcome = site.upload()
    assert [NAMES[0] in problem for problem in outcome.problems] == [True]
    assert other.read_bytes() == b"somebody else's"
    assert f"dumps/{NAMES[1]}" in site.stored()


def test_what_was_cut_short_there_is_told(site: Site) -> None:
    site.dump(NAMES[0])
    site.upload()
    stored = site.nas / "dumps" / NAMES[0]
    stored.write_bytes(stored.read_bytes()[:-1])
    assert "bytes were sent" in site.upload().problems[0]


def test_when_the_memory_is_lost_what_is_there_is_compared_and_not_sent_again(site: Site) -> None:
    site.dump(NAMES[0])
    site.upload()
    shutil.rmtree(site.home / "state")
    (site.home / "state").mkdir()
    assert (site.upload().files, site.upload().problems) == (0, ())


def test_a_dump_that_is_pruned_meanwhile_keeps_none_of_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows, name in enumerate(NAMES, 1):
        site.dump(name, rows)
    put = DirectoryDestination.put

    def prune_then_put(self: DirectoryDestination, source: Path, key: str, transfer: Transfer) -> None:
        (site.backups / NAMES[2]).unlink(missing_ok=True)
        put(self, source, key, transfer)

    monkeypatch.setattr(DirectoryDestination, "put", prune_then_put)
    assert site.upload().files == 4


# Encrypted


def test_without_the_identity_nothing_of_a_dump_or_the_secrets_can_be_read_there(site: Site) -> None:
    marker = b"M31-a-secret-target"
    site.dump(NAMES[0], text=dump(copy(b"public.t", (b"a",), [(marker,)])))
    (site.shared / "notes.txt").write_bytes(marker)
    to = f'.to = ["nas"]\n{{}}.encrypt_to = ["{RECIPIENT}"]\n'
    site.configure("".join(f"{name}{to.format(name)}" for name in ("dumps", "secrets", "data")))
    site.upload()
    assert all(key.endswith(".age") for key in site.stored())
    assert len(site.stored()) == 4
    for key in site.stored():
        stored = (site.nas / key).read_bytes()
        for secret in (PASSWORD.encode(), marker, b"PostgreSQL database dump"):
            assert secret not in stored
            assert secret not in (gzip.decompress(stored) if stored[:2] == b"\x1f\x8b" else b"")
    with (site.nas / "dumps" / f"{NAMES[0]}.age").open("rb") as stored_dump:
        plain = io.BytesIO()
        decrypt(stored_dump, plain, str(IDENTITY))
    assert plain.getvalue() == (site.backups / NAMES[0]).read_bytes()


def test_nothing_is_left_of_what_was_staged(site: Site) -> None:
    site.dump(NAMES[0])
    site.configure(f'dumps.to = ["nas"]\ndumps.encrypt_to = ["{RECIPIENT}"]')
    site.upload()
    staging = site.home / "state" / "off-host" / "nas" / "staging"
    assert staging.stat().st_mode & 0o777 == 0o700
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize(
    "upload", ['dumps.to = ["nas"]\nsecrets.to = ["nas"]', 'dumps.to = ["nas"]\nsecrets.to = ["b"]']
)
def test_secrets_beside_dumps_are_refused_unless_encrypted(site: Site, upload: str) -> None:
    other = f'mount = false\n[destinations.b]\ntype = "directory"\npath = "{site.nas}/inner"\nmount = false\n'
    site.configure(upload, kind=f'type = "directory"\npath = "{site.nas}"\n{other}')
    with pytest.raises(UsageError, match="would have the passwords too"):
        load(site.settings)
    site.configure(
        f'{upload}\nsecrets.encrypt_to = ["{RECIPIENT}"]', kind=f'type = "directory"\npath = "{site.nas}"\n{other}'
    )
    assert sorted(load(site.settings)) == ["b", "nas"]


# What was damaged here


def spoil(path: Path) -> None:
    """Write over a part of its SQL: same inode, same size, same times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(bytes(8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_is_not_whole_any_more_is_not_uploaded_and_told(site: Site, *, encrypted: bool) -> None:
    site.configure('dumps.to = ["nas"]' + f'\ndumps.encrypt_to = ["{RECIPIENT}"]' * encrypted)
    end = ".age" if encrypted else ""
    site.dump(NAMES[0])
    spoil(site.dump(NAMES[1], 2))
    outcome = site.upload()
    assert site.stored() == [f"dumps/{NAMES[0]}{end}"]
    [problem] = outcome.problems
    assert problem.startswith(f"{NAMES[1]} isn't uploaded, as it isn't whole any more: ")
    assert names_in(site.home / "state" / "off-host" / "nas" / "staging") == []

    site.dump(NAMES[1], 2)
    assert site.upload().problems == ()
    assert site.stored() == [f"dumps/{NAMES[0]}{end}", f"dumps/{NAMES[1]}{end}"]


def test_another_file_of_the_same_content_goes_for_one_that_is_not_whole(site: Site) -> None:
    site.dump(NAMES[0])
    spoil(site.dump(NAMES[1]))
    os.link(site.backups / NAMES[1], site.backups / NAMES[2])
    [problem] = site.upload().problems
    assert problem.startswith(NAMES[2])
    assert site.stored() == [f"dumps/{NAMES[0]}"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_changes_while_it_is_staged_goes_whole_or_not_at_all(
    site: Site, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = site.dump(NAMES[0])
    whole, add = path.read_bytes(), Staging.add

    def changing(staging: Staging, source: BinaryIO, *arguments: Any) -> StagedFile:
        if when == "before":
            spoil(path)
        staged = add(staging, source, *arguments)
        if when == "before":
            path.write_bytes(whole)
        else:
            os.truncate(path, len(whole) // 2)
        return staged

    monkeypatch.setattr(Staging, "add", changing)
    problems = site.upload().problems
    if when == "before":
        assert site.stored() == []
        assert "it changed while it was read" in problems[0]
    else:
        assert (site.nas / "dumps" / NAMES[0]).read_bytes() == whole
        assert problems == ()


# Coming back


def test_a_dump_that_is_only_there_is_listed_with_what_it_holds_and_comes_back_the_same(site: Site) -> None:
    path = site.dump(NAMES[0], 3)
    site.upload()
    expected = sha256(path)
    path.unlink()
    [found] = site.off_host().copies().only_there([])
    assert (found.name, found.rows, found.good) == (NAMES[0], {"public.t": 3}, True)
    assert site.fetch(NAMES[0]) == NAMES[0]
    assert sha256(path) == expected
    assert names_in(site.backups) == [NAMES[0]]


def test_another_host_reads_the_manifests_of_what_is_there_by_itself(site: Site) -> None:
    site.dump(NAMES[0], 3).rename(site.nas / NAMES[0])
    (site.nas / "dumps").mkdir()
    (site.nas / NAMES[0]).rename(site.nas / "dumps" / NAMES[0])
    site.upload()
    [found] = site.off_host().copies().only_there([])
    assert found.rows == {"public.t": 3}


def test_an_encrypted_dump_comes_back_with_the_identity_only(site: Site) -> None:
    site.configure(f'dumps.to = ["nas"]\ndumps.encrypt_to = ["{RECIPIENT}"]')
    path = site.dump(NAMES[0])
    site.upload()
    expected = sha256(path)
    path.unlink()
    with pytest.raises(Refused, match="is encrypted") as refused:
        site.fetch(NAMES[0])
    assert "--identity" in refused.value.hint
    with pytest.raises(OperationFailed, match="other recipients"):
        site.fetch(NAMES[0], str(pyrage.x25519.Identity.generate()))
    assert names_in(site.backups) == []
    site.fetch(NAMES[0], str(IDENTITY))
    assert sha256(path) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:70_000] + b"x" + data[70_001:]])
def test_a_dump_that_was_damaged_there_does_not_come_back(site: Site, damage: Callable[[bytes], bytes]) -> None:
    path = site.dump(NAMES[0], 50_000)
    site.upload()
    path.unlink()
    stored = site.nas / "dumps" / NAMES[0]
    stored.write_bytes(damage(stored.read_bytes()))
    with pytest.raises(OperationFailed, match="SHA-256 differs"):
        site.fetch(NAMES[0])
    site.forget()
    site.configure()
    with pytest.raises(OperationFailed, match="not whole"):
        site.fetch(NAMES[0])
    assert names_in(site.backups) == []


def test_a_fetch_at_work_is_not_swept_away_and_a_killed_one_is(site: Site) -> None:
    rights = FileRights()
    with IncomingDump(site.backups, NAMES[0], rights) as incoming:
        assert sweep_partials(site.backups) == []
        left = site.backups / "left"
        os.link(incoming.path, left)
    left.rename(incoming.path)
    assert sweep_partials(site.backups) == [incoming.path.name]


def test_what_is_known_of_another_place_under_the_same_name_does_not_count(site: Site, tmp_path: Path) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    aged(site, [0, 40])
    other = site.nas.with_name("other-nas")
    site.nas.rename(other)
    site.nas.mkdir()
    site.configure(kind=f'type = "directory"\npath = "{other}"\nmount = false')
    [place] = site.off_host().used
    assert place.memory.facts.put == {}


# Retention there


def taken(days_ago: int) -> str:
    return f"backup-{datetime.now(UTC) - timedelta(days=days_ago):%Y%m%d-%H%M%S}.sql.gz"


def aged(site: Site, days: list[int], *, rows: int = 1, **changed: Any) -> list[str]:
    """Upload dumps of so many days ago, as if each had been uploaded then; each has a row more than the last."""
    names = [taken(day) for day in days]
    for count, name in enumerate(names, rows):
        site.dump(name, count, **changed)
    site.upload()
    for day, name in zip(days, names, strict=True):
        moment = (datetime.now(UTC) - timedelta(days=day)).timestamp()
        os.utime(site.nas / "dumps" / name, (moment, moment))
    return names


def test_what_the_retention_there_does_not_keep_goes_and_nothing_else(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    names = aged(site, [0, 20, 40, 50])
    assert site.upload().removed == (f"dumps/{names[2]}", f"dumps/{names[3]}")
    assert site.stored() == sorted(f"dumps/{name}" for name in names[:2])


def test_what_flagged_dumps_lack_stays_there_though_it_is_nowhere_else(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    whole = aged(site, [40, 45, 50], rows=1000)
    for name in whole:
        (site.backups / name).unlink()
    lossy = aged(site, [0, 1])
    assert site.upload().removed == ()
    assert site.stored() == sorted(f"dumps/{name}" for name in [*whole, *lossy])
    backups = site.off_host()._uploads.backups
    newest = backups.list()[0]
    backups.anomalies.accept(newest.backup, newest.judgement)
    assert site.upload().removed == tuple(f"dumps/{name}" for name in whole)


def test_what_retention_removed_there_does_not_go_up_again(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    aged(site, [0, 40])
    assert len(site.upload().removed) == 1
    assert site.upload().files == 0


def test_an_empty_directory_here_removes_nothing_there(site: Site) -> None:
    names = aged(site, [0, 1, 2])
    shutil.rmtree(site.backups)
    site.upload()
    assert site.stored() == sorted(f"dumps/{name}" for name in names)


def test_what_another_host_put_there_is_never_removed(site: Site) -> None:
    site.configure(retention="keep_days = 1, keep_last = 1, keep_monthly = 0")
    site.host = "other-host"
    theirs = aged(site, [50, 60], host="other-host")
    shutil.rmtree(site.home / "state")
    (site.home / "state").mkdir()
    for name in theirs:
        (site.backups / name).unlink()
    site.host = HOST
    aged(site, [0, 1])
    site.upload()
    assert {f"dumps/{name}" for name in theirs} <= set(site.stored())


def test_a_clock_that_runs_ahead_removes_nothing_there(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    names = aged(site, [0, 5, 10])
    site.dump(taken(-400), 9)  # from a host whose clock was a year ahead
    site.upload()
    assert {f"dumps/{name}" for name in names} <= set(site.stored())


def test_a_doubtful_clock_removes_nothing_there(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    names = aged(site, [0, 40])
    site.clock_doubt = "The clock jumped."
    assert site.upload().removed == ()
    assert len(site.stored()) == len(names)


def test_what_may_not_be_removed_there_is_told_and_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    aged(site, [0, 40])

    def locked(self: DirectoryDestination, key: str) -> None:
        raise DestinationError("destination-denied", "It is locked.", hint="Wait.")

    monkeypatch.setattr(DirectoryDestination, "delete", locked)
    outcome = site.upload()
    assert (len(outcome.problems), outcome.removed) == (1, ())


# Secrets


def test_the_secrets_are_uploaded_when_they_change_and_hold_what_compose_reads(site: Site) -> None:
    site.configure('secrets.to = ["nas"]')
    install = site.home / "install"
    (install / "docker-compose.override.yml").write_text("services: {a: {}}\n")
    (install / "more").mkdir()
    (install / "more" / "gpu.yml").write_text("gpu\n")
    append(install / ".env", "COMPOSE_FILE=docker-compose.yml:more/gpu.yml:../outside.yml\n")
    site.upload()
    assert site.upload().files == 0
    [key] = site.stored()
    with tarfile.open(site.nas / key) as archive:
        assert sorted(archive.getnames()) == [
            ".env", "docker-compose.override.yml", "docker-compose.yml", "more/gpu.yml",
        ]  # fmt: skip
        assert {member.name: member.mode for member in archive}[".env"] == (install / ".env").stat().st_mode & 0o777
    append(install / ".env", "X=1\n")
    assert site.upload().files == 1


# Shared data


@pytest.fixture(name="data")
def _data(site: Site) -> Site:
    site.configure('data.to = ["nas"]')
    (site.shared / "2026" / "night 1").mkdir(parents=True)
    (site.shared / "2026" / "night 1" / "m31 é#?%.fits").write_bytes(os.urandom(3_000_000))
    (site.shared / ".hidden").write_bytes(b"")
    (site.shared / "empty").mkdir()
    (site.shared / "link").symlink_to("2026/night 1")
    site.dump(NAMES[0])
    return site


def index(site: Site) -> dict[str, Any]:
    key = max(key for key in site.stored() if key.startswith("data/index-"))
    return {each.node.path: each for each in decode_index((site.nas / key).read_bytes()).nodes}


def test_the_shared_data_are_there_file_by_file_without_the_dumps(data: Site) -> None:
    data.upload()
    nodes = index(data)
    assert sorted(nodes) == [".hidden", "2026", "2026/night 1", "2026/night 1/m31 é#?%.fits", "empty", "link"]
    assert nodes["link"].node.target == "2026/night 1"
    stored = data.nas / nodes["2026/night 1/m31 é#?%.fits"].key
    assert sha256(stored) == sha256(data.shared / "2026" / "night 1" / "m31 é#?%.fits")
    assert data.upload().files == 0


def test_only_what_changed_is_sent_and_what_it_was_before_stays(data: Site) -> None:
    path = data.shared / "notes.txt"
    path.write_text("one")
    data.upload()
    before = index(data)["notes.txt"]
    path.write_text("two!")
    (data.shared / ".hidden").unlink()
    assert data.upload().files == 2  # the file, and an index
    after = index(data)["notes.txt"]
    assert [(data.nas / each.key).read_text() for each in (before, after)] == ["one", "two!"]
    assert ".hidden" not in index(data)


def test_the_same_content_under_other_paths_is_sent_once(data: Site) -> None:
    data.upload()
    shutil.copytree(data.shared / "2026", data.shared / "2027")
    assert data.upload().files == 1  # an index
    assert sum(path.startswith("2027/") for path in index(data)) == 2


def test_what_a_path_is_called_or_was_before_does_not_matter(data: Site) -> None:
    (data.shared / ("x" * 255)).write_text("long")
    (data.shared / "odd\n\x01\\name").write_text("odd")
    (data.shared / "thing").write_text("a file")
    data.upload()
    (data.shared / "thing").unlink()
    (data.shared / "thing").mkdir()
    (data.shared / "thing" / "inside").write_text("a directory")
    assert data.upload().problems == ()
    assert {"x" * 255, "odd\n\x01\\name", "thing/inside"} <= set(index(data))


def test_to_other_recipients_everything_is_sent_anew(data: Site) -> None:
    other = pyrage.x25519.Identity.generate()
    for identity in (IDENTITY, other):
        data.configure(f'data.to = ["nas"]\ndata.encrypt_to = ["{identity.to_public()}"]')
        data.upload()
    [newest] = [key for key in data.stored() if key.startswith("data/index-")][-1:]
    plain = io.BytesIO()
    with (data.nas / newest).open("rb") as stored:
        decrypt(stored, plain, str(other))
    keys = [each.key for each in decode_index(plain.getvalue()).nodes if each.key]
    for key in keys:
        with (data.nas / key).open("rb") as stored:
            decrypt(stored, io.BytesIO(), str(other))


def test_an_empty_directory_does_not_become_what_a_recovery_brings_back(data: Site) -> None:
    data.upload()
    before = index(data)
    for path in sorted(data.shared.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    outcome = data.upload()
    assert ["no files any more" in problem for problem in outcome.problems] == [True]
    assert index(data) == before


def test_shared_data_that_are_not_there_are_an_error(data: Site) -> None:
    shutil.rmtree(data.shared)
    with pytest.raises(OperationFailed, match="does not exist"):
        data.upload()


def test_secrets_state_and_destinations_among_the_shared_data_stay_out(tmp_path: Path) -> None:
    site = Site(tmp_path / "x")
    site.configure('data.to = ["nas"]')
    env = site.home / "install" / ".env"
    env.write_text(env.read_text().replace(str(site.shared), str(site.home)))
    (site.home / "db_backups").mkdir()
    (site.home / "m31.fits").write_text("data")
    site.upload()
    site.upload()
    assert {path for path in index(site) if not index(site)[path].node.is_directory} == {"config.toml", "m31.fits"}


def test_a_file_for_which_there_is_no_room_keeps_none_of_the_others(data: Site) -> None:
    with (data.shared / "sparse.bin").open("wb") as file:
        file.truncate(1 << 42)
    outcome = data.upload()
    assert ["too large to be staged" in problem for problem in outcome.problems] == [True]
    assert ".hidden" in index(data)


def test_an_upload_that_was_interrupted_goes_on_where_it_was(data: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (data.shared / f"{number}.fits").write_bytes(os.urandom(20_000_000))
    put_all, fail = DirectoryDestination.put_all, [False, True]

    def broken(self: DirectoryDestination, files: Any, transfer: Transfer) -> None:
        if fail and fail.pop(0):
            raise OperationFailed("stopping", "It ended here.")
        put_all(self, files, transfer)

    monkeypatch.setattr(DirectoryDestination, "put_all", broken)
    with pytest.raises(OperationFailed):
        data.upload()
    before = set(data.stored())
    assert before
    data.upload()
    assert before < set(data.stored())
    assert data.upload().files == 0


def test_a_dump_does_not_wait_for_all_of_the_shared_data(data: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcbackupd.operations.offhost.data.IN_BETWEEN_SECONDS", 0.0)
    monkeypatch.setattr("arcbackupd.operations.offhost.data._BATCH_BYTES", 40_000_000)
    data.configure('dumps.to = ["nas"]\ndata.to = ["nas"]')
    for number in range(6):
        (data.shared / f"{number}.fits").write_bytes(os.urandom(20_000_000))
    put_all = DirectoryDestination.put_all
    stored: list[bool] = []

    def dumping(self: DirectoryDestination, files: Any, transfer: Transfer) -> None:
        if not stored:
            data.dump(NAMES[1], 2)
        stored.append(f"dumps/{NAMES[1]}" in data.stored())
        put_all(self, files, transfer)

    monkeypatch.setattr(DirectoryDestination, "put_all", dumping)
    data.upload()
    assert stored[0] is False
    assert stored[-1] is True


def test_a_file_that_is_being_written_waits_for_the_next_time(data: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = data.shared / "growing.fits"
    growing.write_bytes(bytes(5_000_000))
    from arcbackupd.operations.offhost import staging

    add = staging.Staging.add

    def grow(self: Any, source: Any, recipients: Any, advance: Any) -> Any:
        with growing.open("ab") as file:
            file.write(b"x")
        return add(self, source, recipients, advance)

    monkeypatch.setattr(staging.Staging, "add", grow)
    outcome = data.upload()
    assert ["changed while it was read" in problem for problem in outcome.problems] == [True]
    assert "growing.fits" not in index(data)
    monkeypatch.undo()
    data.upload()
    assert index(data)["growing.fits"].node.size == growing.stat().st_size


def test_no_link_and_no_pipe_in_the_shared_data_leads_anywhere(data: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("not yours")
    (data.shared / "out").symlink_to(secret)
    (data.shared / "out2").symlink_to(secret / "key")
    os.mkfifo(data.shared / "pipe")
    data.upload()
    assert not any(b"not yours" in (data.nas / key).read_bytes() for key in data.stored() if "index" not in key)
    assert index(data)["out"].node.target == str(secret)
    assert "pipe" not in index(data)


def test_what_cannot_be_read_is_told_and_keeps_nothing_else(data: Site) -> None:
    (data.shared / os.fsdecode(b"bad-\xff.txt")).write_text("x")
    outcome = data.upload()
    assert ["UTF-8" in problem for problem in outcome.problems] == [True]
    assert ".hidden" in index(data)


# Trouble


def test_a_passing_error_is_tried_again_and_a_lasting_one_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PAUSES", (0.0, 0.0))
    site.dump(NAMES[0])
    put, errors = DirectoryDestination.put, [True, True]

    def failing(self: DirectoryDestination, source: Path, key: str, transfer: Transfer) -> None:
        if errors:
            errors.pop()
            raise DestinationError("destination-unreachable", "It is away.", hint="Look.", passing=True)
        put(self, source, key, transfer)

    monkeypatch.setattr(DirectoryDestination, "put", failing)
    assert site.upload().files == 1
    errors[:] = [True] * 3
    site.dump(NAMES[1], 2)
    with pytest.raises(DestinationError, match="It is away"):
        site.upload()
    [state] = site.off_host().states()
    assert state.failure
    assert state.failure.code == "destination-unreachable"
    assert site.upload().files == 1
    assert site.off_host().states()[0].failure is None


def test_an_answer_that_was_lost_is_no_conflict(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "PAUSES", (0.0,))
    site.dump(NAMES[0])
    put, lost = DirectoryDestination.put, [True]

    def losing(self: DirectoryDestination, source: Path, key: str, transfer: Transfer) -> None:
        put(self, source, key, transfer)
        if lost:
            lost.pop()
            raise DestinationError("destination-unreachable", "No answer came.", passing=True)

    monkeypatch.setattr(DirectoryDestination, "put", losing)
    assert (site.upload().files, site.upload().problems) == (1, ())


def test_one_stream_that_fails_keeps_none_of_the_others(site: Site) -> None:
    site.dump(NAMES[0])
    site.configure('dumps.to = ["nas"]\nsecrets.to = ["nas"]\n' + f'secrets.encrypt_to = ["{RECIPIENT}"]')
    (site.home / "install" / "docker-compose.yml").write_bytes(bytes(2 << 20))
    with pytest.raises(OperationFailed, match="too large"):
        site.upload()
    assert site.stored() == [f"dumps/{NAMES[0]}"]


def test_a_dry_run_tells_what_would_go_and_changes_nothing(site: Site) -> None:
    site.configure(retention="keep_days = 30, keep_last = 1, keep_monthly = 0")
    names = aged(site, [1, 40])
    path = site.dump(NAMES[0].replace("2026", "2020"), 7)
    before = site.stored()

    async def main() -> UploadPlan:
        off_host = site.off_host()
        return await off_host.plan(off_host.used[0]).result

    plan = asyncio.run(main())
    assert (plan.put, plan.remove) == ((f"dumps/{path.name}",), (f"dumps/{names[1]}",))
    assert plan.bytes == path.stat().st_size
    assert site.stored() == before


def test_a_dry_run_tells_of_secrets_and_shared_data_too(data: Site) -> None:
    async def main() -> UploadPlan:
        off_host = data.off_host()
        return await off_host.plan(off_host.used[0]).result

    data.configure(f'data.to = ["nas"]\nsecrets = {{ to = ["nas"], encrypt_to = ["{RECIPIENT}"] }}')
    plan = asyncio.run(main())
    assert (plan.secrets, plan.files, plan.file_bytes, plan.put) == (True, 2, 3_000_000, ())
    data.upload()
    (data.shared / "new.txt").write_text("12345")
    plan = asyncio.run(main())
    assert (plan.secrets, plan.files, plan.file_bytes) == (False, 1, 5)


def test_a_stream_to_a_destination_that_is_not_configured_is_an_error(site: Site) -> None:
    site.configure('dumps.to = ["nas", "tape"]')
    with pytest.raises(UsageError, match=r"upload\.dumps\.to: there is no destination tape"):
        load(site.settings)


def test_a_destination_that_hangs_delays_no_other_and_no_dump(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = site.home / "other"
    other.mkdir()
    site.dump(NAMES[0])
    kind = f'type = "directory"\npath = "{site.nas}"\nmount = false\n'
    second = f'[destinations.b]\ntype = "directory"\npath = "{other}"\nmount = false\n'
    site.configure('dumps.to = ["nas", "b"]', kind=kind + second)
    go_on = threading.Event()
    list_ = DirectoryDestination.list

    def hanging(self: DirectoryDestination, prefix: str) -> list[StoredFile]:
        if self.name == "nas":
            go_on.wait(60)
        return list_(self, prefix)

    monkeypatch.setattr(DirectoryDestination, "list", hanging)

    async def main() -> None:
        off_host = site.off_host()
        hangs, works = (off_host.upload(off_host.places[name]) for name in ("nas", "b"))
        assert (await works.result).files == 1
        assert not hangs.result.done()
        go_on.set()
        assert (await hangs.result).files == 1

    asyncio.run(main())


def test_retention_that_stands_still_there_is_told_until_a_newer_dump_is_there(site: Site) -> None:
    def name(age: timedelta) -> str:
        return f"backup-{datetime.now(UTC) - age:%Y%m%d-%H%M%S}.sql.gz"

    site.configure(retention="keep_days = 5")
    site.dump(name(timedelta(days=10)))
    site.upload()
    assert "10 days old" in (site.off_host().states()[0].frozen or "")
    site.dump(name(timedelta(hours=1)), rows=2)
    site.upload()
    assert site.off_host().states()[0].frozen is None

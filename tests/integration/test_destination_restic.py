"""restic repositories as destinations: in a directory, over SFTP and behind a REST server; cut off, and locked."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from arcbackupd.destinations import Destination, DestinationError, Transfer, Tree
from arcbackupd.destinations.programs import LocalFile
from arcbackupd.destinations.restic import ResticDestination, ResticSettings
from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.process import run, wait_until
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

PASSWORD = "password-that-must-not-be-seen"
NOBODY = 65534


def restic(repository: Path, *arguments: str) -> str:
    """Run restic beside what is under test, on the repository's directory."""
    environment = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(repository)}
    return run(["restic", "--no-cache", *arguments], env=environment).stdout


def made(tmp_path: Path, **settings: Any) -> ResticDestination:
    given = {"password": SecretStr(PASSWORD), **settings}
    return ResticDestination("vault", ResticSettings(**given), tmp_path / "state")


@pytest.fixture(name="repository", scope="session")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Gives a new empty repository at a path: copied, since making one takes a second of deriving keys."""
    tool("restic")
    template = tmp_path_factory.mktemp("restic") / "template"
    restic(template, "init")

    def make(path: Path) -> Path:
        return Path(shutil.copytree(template, path))

    return make


@pytest.fixture(name="vault")
def _vault(repository: Callable[[Path], Path], tmp_path: Path) -> Path:
    return repository(tmp_path / "vault")


@pytest.fixture(name="destination")
def _destination(vault: Path, tmp_path: Path) -> ResticDestination:
    return made(tmp_path, repository=str(vault))


class RestServer:
    """rclone's server of a restic repository; a context manager."""

    def __init__(self, vault: Path) -> None:
        self.port = free_port()
        self._vault = vault

    def __enter__(self) -> RestServer:
        address = f"127.0.0.1:{self.port}"
        argv = [
            tool("rclone"),
            "serve",
            "restic",
            "--config",
            "/dev/null",
            "--addr",
            address,
            f":local:{self._vault}",
        ]
        self._process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "rclone's REST server")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with suppress(OSError):
            return run(["curl", "-s", f"http://127.0.0.1:{self.port}/config"], check=False).returncode == 0
        return False


@pytest.fixture(name="proxy")
def _proxy(request: pytest.FixtureRequest, vault: Path, tmp_path: Path) -> Iterator[CuttingProxy]:
    with ExitStack() as running:
        server = running.enter_context(RestServer(vault))
        yield running.enter_context(CuttingProxy(server.port))


@pytest.fixture(name="far")
def _far(proxy: CuttingProxy, tmp_path: Path) -> ResticDestination:
    """The repository as it is seen through the REST server and the proxy."""
    return made(tmp_path, repository=f"rest:{proxy.url}/")


@pytest.fixture(name="over_sftp")
def _over_sftp(vault: Path, tmp_path: Path) -> Iterator[ResticDestination]:
    with SftpServer(tmp_path / "ssh") as server:
        yield made(tmp_path, repository=f"sftp:nas:{vault}", sftp_command=server.command())


class ResticContract(DestinationContract):
    """What every destination does; restic lets the bytes of a second go at once before it holds to a limit."""

    def test_a_limit_is_kept_to(self, destination: Destination[Any], put: Put) -> None:
        progress = Progress()
        started = time.monotonic()
        put("dumps/file", LARGE[: 3 << 20], Transfer(progress, limit=1 << 20))
        assert time.monotonic() - started >= 1.5
        assert len(progress.counts) >= 2
        assert progress.total == 3 << 20


@pytest.mark.slow
class TestContractLocal(ResticContract):
    """What every destination does, in a directory."""


@pytest.mark.slow
class TestContractSftp(ResticContract):
    """What every destination does, over SFTP."""

    names = ("with spaces  in it.sql.gz", "ünïcödé,-星")

    @pytest.fixture(name="destination")
    @staticmethod
    def _destination(over_sftp: ResticDestination) -> ResticDestination:
        return over_sftp


@pytest.mark.slow
class TestContractRest(ResticContract):
    """What every destination does, behind a REST server."""

    names = ("with spaces  in it.sql.gz", "ünïcödé,-星")

    @pytest.fixture(name="destination")
    @staticmethod
    def _destination(far: ResticDestination) -> ResticDestination:
        return far


# Files


def test_a_file_is_stored_listed_read_and_deleted(destination: ResticDestination, put: Put, vault: Path) -> None:
    destination.check()
    put("dumps/a,b =%", SMALL)
    (file,) = destination.list("dumps")
    assert (file.key, file.size) == ("dumps/a,b =%", len(SMALL))
    assert fetched(destination, "dumps/a,b =%") == SMALL
    destination.delete("dumps/a,b =%")
    assert destination.list("dumps") == []
    assert restic(vault, "list", "locks") == ""


def test_a_name_need_not_be_utf_8(destination: ResticDestination, put: Put) -> None:
    put("dumps/\udcff")
    assert keys(destination) == ["dumps/\udcff"]


def test_the_key_and_the_size_stand_in_tags(destination: ResticDestination, put: Put, vault: Path) -> None:
    put("dumps/a,b", SMALL)
    told = restic(vault, "snapshots", "--tag", "arcbackupd,arcbackupd-key=dumps/a%2Cb,arcbackupd-size=6", "--json")
    assert told.count('"tree"') == 1


@pytest.mark.parametrize("verify", ["size", "read"])
def test_what_arrives_is_verified(verify: str, vault: Path, tmp_path: Path) -> None:
    destination = made(tmp_path, repository=str(vault), verify=verify)
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    destination.put(source, "dumps/file", Transfer())
    assert digest(fetched(destination, "dumps/file")) == digest(LARGE)


def test_a_file_cut_while_it_is_read_is_damaged_and_never_a_key(
    destination: ResticDestination, vault: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if a byte went after it was looked at: restic finds nothing wrong with that.
    monkeypatch.setattr(LocalFile, "of", lambda name, path: LocalFile(name, path, len(LARGE) + 1))
    with pytest.raises(DestinationError) as raised:
        put("dumps/file", LARGE)
    assert raised.value.code == "destination-damaged"
    assert keys(destination) == []
    assert restic(vault, "snapshots", "--json").strip() in ("null", "[]")


def test_a_snapshot_of_another_size_than_its_tag_tells_is_no_file(
    destination: ResticDestination, vault: Path, tmp_path: Path, put: Put
) -> None:
    (tmp_path / "cut").write_bytes(SMALL[:-1])
    tags = f"arcbackupd,arcbackupd-key=dumps/file,arcbackupd-size={len(SMALL)}"
    restic(vault, "backup", "--tag", tags, "--time", "2026-01-01 00:00:00", str(tmp_path / "cut"))
    assert keys(destination) == []
    put("dumps/file")
    assert fetched(destination, "dumps/file") == SMALL
    destination.check()  # which removes what was left so long ago
    assert restic(vault, "snapshots", "--json").count('"tree"') == 1


def test_what_others_keep_in_the_repository_is_left_alone(
    destination: ResticDestination, vault: Path, tmp_path: Path, put: Put
) -> None:
    (tmp_path / "other").write_bytes(SMALL)
    for tag in ("others", "arcbackupd"):
        restic(vault, "backup", "--tag", tag, "--time", "2026-01-01 00:00:00", str(tmp_path / "other"))
    put("dumps/file")
    destination.list("dumps")
    destination.check()
    destination.delete("dumps/file")
    assert restic(vault, "snapshots", "--json").count('"tree"') == 2


def test_a_cancelled_upload_leaves_neither_a_file_nor_a_lock(
    destination: ResticDestination, vault: Path, put: Put
) -> None:
    with pytest.raises(EnoughError):
        put("dumps/file", LARGE, Transfer(Progress(cancel_after=1), limit=1 << 20))
    assert keys(destination) == []
    assert restic(vault, "list", "locks") == ""


# What is wrong


def test_a_repository_that_is_not_there_is_missing(tmp_path: Path) -> None:
    tool("restic")
    with pytest.raises(DestinationError) as raised:
        made(tmp_path, repository=str(tmp_path / "nowhere")).check()
    assert raised.value.code == "destination-missing"
    assert "restic init" in raised.value.hint


def test_a_wrong_password_is_denied(vault: Path, tmp_path: Path) -> None:
    with pytest.raises(DestinationError) as raised:
        made(tmp_path, repository=str(vault), password=SecretStr("another")).check()
    assert raised.value.code == "destination-denied"
    assert not raised.value.passing


def test_a_key_that_is_not_let_in_is_denied(vault: Path, tmp_path: Path) -> None:
    tool("restic")
    with SftpServer(tmp_path / "ssh") as server:
        command = server.command(key=server.home / "strange_key")
        destination = made(tmp_path, repository=f"sftp:nas:{vault}", sftp_command=command)
        codes = [_refused(destination) for _ in range(5)]
    # Now and then restic ends without having told what ssh said.
    assert "destination-denied" in codes
    assert set(codes) <= {"destination-denied", "destination-unreachable"}


def _refused(destination: ResticDestination) -> str:
    with pytest.raises(DestinationError) as raised:
        destination.check()
    return raised.value.code


def test_a_server_that_is_away_is_unreachable(vault: Path, tmp_path: Path) -> None:
    with pytest.raises(DestinationError) as raised:
        made(tmp_path, repository=f"rest:http://127.0.0.1:{free_port()}/").check()
    assert raised.value.code == "destination-unreachable"
    assert raised.value.passing


def test_a_lock_that_stays_is_told_and_left_alone(destination: ResticDestination, vault: Path, put: Put) -> None:
    put("dumps/file")
    argv = ["restic", "--no-cache", "backup", "--stdin"]
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(vault)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as other:
        # It is written under a longer name.
        wait_until(lambda: any(len(path.name) == 64 for path in (vault / "locks").iterdir()), "a lock")
        other.kill()
    with pytest.raises(DestinationError) as raised:
        destination.delete("dumps/file")
    assert raised.value.passing
    assert "restic unlock" in raised.value.hint
    assert len(list((vault / "locks").iterdir())) == 1
    put("dumps/another")  # which it is in nobody's way of
    assert keys(destination) == ["dumps/another", "dumps/file"]


def test_passwords_and_addresses_come_from_files_too(vault: Path, tmp_path: Path) -> None:
    with RestServer(vault) as server:
        (tmp_path / "address").write_text(f"rest:http://me:{PASSWORD}@127.0.0.1:{server.port}/\n")
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        files = {"repository_file": tmp_path / "address", "password_file": tmp_path / "password"}
        destination = made(tmp_path, **files, password=None)
        destination.check()
        assert destination.location == f"restic:rest:http://127.0.0.1:{server.port}"
    with pytest.raises(DestinationError) as raised:
        destination.check()
    assert PASSWORD not in f"{raised.value} {raised.value.hint}"


def test_what_a_server_asks_for_besides_comes_from_a_file(tmp_path: Path) -> None:
    tool("restic")
    secret = "another-that-must-not-be-seen"
    (tmp_path / "environment").write_text(f"AWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY='{secret}'\n")
    address = f"s3:http://127.0.0.1:{free_port()}/bucket"
    destination = made(tmp_path, repository=address, environment_file=tmp_path / "environment")
    assert destination._environment()["AWS_SECRET_ACCESS_KEY"] == secret
    assert secret not in repr(destination._restic._command("snapshots"))


@pytest.mark.parametrize(
    "table",
    [
        {"repository": "/srv/repo"},
        {"repository": "/srv/repo", "password": "x", "password_file": "/x"},
        {"password": "x"},
        {"repository": "/srv/repo", "repository_file": "/x", "password": "x"},
        {"repository": "repo", "password": "x"},
        {"repository": "rest:https://me:secret@nas/", "password": "x"},
    ],
)
def test_settings_that_say_too_little_or_too_much_are_refused(table: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as raised:
        ResticSettings.model_validate(table)
    assert "secret@" not in str(raised.value)


# A server far away


@pytest.mark.slow
def test_an_upload_over_a_connection_that_is_cut_again_and_again_is_whole_in_the_end_and_there_once(
    far: ResticDestination, proxy: CuttingProxy, tmp_path: Path, vault: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    places = random.Random(1)
    for _ in range(4):
        proxy.break_after(places.randrange(1000, len(LARGE)), "cut", stays=False)
        failed = failure(far, source)
        assert failed is None or failed.passing or failed.code == "destination-conflict", failed
    proxy.pass_on()
    if not far.list("dumps"):
        far.put(source, "dumps/file", Transfer())
    assert keys(far) == ["dumps/file"]
    assert digest(fetched(far, "dumps/file")) == digest(LARGE)
    assert restic(vault, "snapshots", "--json").count('"tree"') == 1


def failure(destination: ResticDestination, source: Path) -> DestinationError | None:
    """Store a file, and return why it couldn't be."""
    try:
        destination.put(source, "dumps/file", Transfer())
    except DestinationError as error:
        return error
    return None


# Trees


def grow(root: Path, names: dict[str, bytes]) -> Tree:
    for name, contents in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return Tree(root)


def hashes(root: Path) -> dict[str, str]:
    """Return the hashes of all files below a directory, by their paths."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def got(destination: ResticDestination, target: Path, key: str = "files") -> Path:
    target.mkdir()
    destination.get_tree(key, target, Transfer())
    return target


def size(vault: Path) -> int:
    return sum(path.stat().st_size for path in (vault / "data").rglob("*") if path.is_file())


def test_a_tree_comes_back_as_it_was_and_the_second_time_only_what_is_new_is_sent(
    destination: ResticDestination, vault: Path, tmp_path: Path
) -> None:
    tree = grow(tmp_path / "tree", {"a/1": LARGE, "a/ü 2": SMALL, ".dot": b"", "-rf": SMALL, "[x]*": SMALL})
    (tree.root / "empty").mkdir()
    assert destination.put_tree(tree, "files", Transfer()) == ()
    first = hashes(tree.root)
    before = size(vault)
    grow(tree.root, {"b/3": SMALL * 2})
    (tree.root / "a/ü 2").unlink()
    assert destination.put_tree(tree, "files", Transfer()) == ()
    assert size(vault) - before < len(LARGE) // 100
    target = got(destination, tmp_path / "target")
    assert hashes(target) == hashes(tree.root) != first
    assert (target / "empty").is_dir()
    assert destination.list("files") == []


def test_what_is_excluded_stays_out_and_nothing_else_does(destination: ResticDestination, tmp_path: Path) -> None:
    names = ["cache/x", "keep/cache/x", "a[b]*", "ab", "a\\c", "keep/$HOME"]
    tree = grow(tmp_path / "tree", dict.fromkeys(names, SMALL))
    left_out = Tree(tree.root, frozenset({"cache", "a[b]*", "a\\c", "keep/$HOME"}))
    assert destination.put_tree(left_out, "files", Transfer()) == ()
    assert set(hashes(got(destination, tmp_path / "target"))) == {"keep/cache/x", "ab"}


def test_trees_of_two_keys_are_two(destination: ResticDestination, tmp_path: Path) -> None:
    for key in ("one", "two"):
        destination.put_tree(grow(tmp_path / key, {key: SMALL}), key, Transfer())
    assert set(hashes(got(destination, tmp_path / "target", "one"))) == {"one"}


def test_a_tree_that_was_never_kept_is_lacking(destination: ResticDestination, tmp_path: Path) -> None:
    with pytest.raises(DestinationError) as raised:
        got(destination, tmp_path / "target")
    assert raised.value.code == "destination-lacks"


@pytest.fixture(name="nobodys")
def _nobodys() -> Iterator[Path]:
    """A directory that nobody may reach."""
    if os.geteuid() != 0:
        require("root", "only root may be somebody else for a while")
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_what_cannot_be_read_is_told_and_the_rest_is_kept(
    repository: Callable[[Path], Path], nobodys: Path
) -> None:
    home = nobodys
    tree = grow(home / "tree", {"open": SMALL, "closed": SMALL})
    vault = repository(home / "vault")
    run(["chown", "-R", str(NOBODY), str(home)])
    os.chown(tree.root / "closed", 0, 0)
    (tree.root / "closed").chmod(0o600)
    destination = made(home, repository=str(vault))
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        (sentence,) = destination.put_tree(tree, "files", Transfer())
        target = got(destination, home / "target")
    finally:
        os.setresuid(0, 0, 0)
    assert str(tree.root / "closed") in sentence
    assert set(hashes(target)) == {"open"}


def test_what_comes_and_goes_meanwhile_does_not_stop_it(destination: ResticDestination, tmp_path: Path) -> None:
    tree = grow(tmp_path / "tree", {f"stays/{number}": SMALL for number in range(500)})
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            grow(tree.root, {f"{letter}/{number}": LARGE[:100_000] for letter in "az" for number in range(50)})
            for letter in "az":
                shutil.rmtree(tree.root / letter)

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for sentence in destination.put_tree(tree, "files", Transfer()):
            assert str(tree.root) in sentence
    finally:
        done.set()
        churning.join()
    assert len([path for path in hashes(got(destination, tmp_path / "target")) if path.startswith("stays/")]) == 500


def test_a_cancelled_tree_keeps_the_older_one_and_leaves_no_lock(
    destination: ResticDestination, vault: Path, tmp_path: Path
) -> None:
    destination.put_tree(grow(tmp_path / "tree", {"1": SMALL}), "files", Transfer())
    tree = grow(tmp_path / "tree", {"2": LARGE})
    started = time.monotonic()
    with pytest.raises(EnoughError):
        destination.put_tree(tree, "files", Transfer(Progress(cancel_after=0), limit=1 << 20))
    assert time.monotonic() - started < 9
    assert set(hashes(got(destination, tmp_path / "target"))) == {"1"}
    assert restic(vault, "list", "locks") == ""

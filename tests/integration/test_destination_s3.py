"""A bucket of a real S3 server as a destination, behind a network that fails in every way."""

from __future__ import annotations

import json
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest

from arcbackupd.destinations import DestinationError, Transfer
from arcbackupd.destinations.s3 import PART, S3Destination
from arcbackupd.destinations.s3_settings import S3Settings
from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.process import run
from tests.harness.s3 import READER_ACCESS_KEY, READER_SECRET_KEY, SECRET_KEY, S3Server
from tests.integration.destination_contract import (
    LARGE,
    NAMES,
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

pytestmark = pytest.mark.slow  # real servers, cut off and silent

SEAWEED_NAMES = tuple(name for name in NAMES if "\\" not in name)
"""This server makes a slash of a backslash; what was put there then isn't found, and told as damaged."""


@pytest.fixture(name="proxy")
def _proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    with CuttingProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture(name="bucket")
def _bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture(name="destination")
def _destination(s3_server: S3Server, bucket: str, tmp_path: Path) -> S3Destination:
    return made(s3_server.table(bucket, prefix="observatory/one"), tmp_path)


@pytest.fixture(name="behind")
def _behind(s3_server: S3Server, bucket: str, proxy: CuttingProxy, tmp_path: Path) -> S3Destination:
    """The same bucket, behind the proxy, and with little patience."""
    table = s3_server.table(bucket, prefix="observatory/one")
    return made({**table, "endpoint": proxy.url, "timeout": "2s", "connect_timeout": "2s"}, tmp_path)


def made(table: dict[str, Any], state_dir: Path) -> S3Destination:
    return S3Destination("vault", S3Settings(**table), state_dir)


def refusal(action: Callable[[], object]) -> DestinationError:
    """The error of what must fail; it tells no secret, whatever is asked of it."""
    with pytest.raises(DestinationError) as raised:
        action()
    error: BaseException | None = raised.value
    while error is not None:
        assert "secret-that-must-not" not in f"{error} {error!r}"
        error = error.__cause__
    assert raised.value.message.endswith(".")
    assert "vault" in raised.value.message
    return raised.value


class TestContract(DestinationContract):
    """What every destination does."""

    names = SEAWEED_NAMES


# What the server has


def test_files_are_where_the_prefix_says_and_others_are_not_seen(
    s3_server: S3Server, bucket: str, destination: S3Destination, tmp_path: Path, put: Put
) -> None:
    whole = made(s3_server.table(bucket), tmp_path)
    other = made(s3_server.table(bucket, prefix="observatory/on"), tmp_path)
    put("dumps/file")
    assert keys(whole, "observatory") == ["observatory/one/dumps/file"]
    assert keys(other) == []
    assert destination.location == f"{s3_server.url}/{bucket}/observatory/one"


def test_more_than_a_page_of_files_is_listed(destination: S3Destination, put: Put) -> None:
    for number in range(1005):
        obstore.put(destination._server.store, f"observatory/one/dumps/{number}", b"x")
    assert len(keys(destination)) == 1005


def test_what_a_web_console_makes_of_a_directory_is_no_file_in_it(
    s3_server: S3Server, bucket: str, destination: S3Destination, put: Put
) -> None:
    put("dumps/file")
    s3_server.put_empty(bucket, "observatory/one/dumps/")
    assert keys(destination) == ["dumps/file"]


def test_a_name_that_cannot_be_listed_is_told(s3_server: S3Server, bucket: str, destination: S3Destination) -> None:
    s3_server.put_empty(bucket, "observatory/one/dumps/line\nbreak")
    error = refusal(lambda: destination.list("dumps"))
    assert error.code == "destination-failed"
    assert "control characters" in error.message


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
@pytest.mark.parametrize("verify", ["read", "size"])
def test_what_arrives_changed_is_found_out_and_removed(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, verify: str
) -> None:
    destination = made(s3_server.table(bucket, verify=verify), tmp_path)
    source = tmp_path / "source"
    source.write_bytes(LARGE[:size])
    put = obstore.put

    def damaging(store: Any, path: str, body: Any, **options: Any) -> Any:
        data = bytearray(b"".join([body] if isinstance(body, bytes) else body))
        data[-1] ^= 1
        short = data if verify == "read" else data[:-1]
        return put(store, path, bytes(short), **{**options, "mode": "overwrite"})

    monkeypatch.setattr(obstore, "put", damaging)
    error = refusal(lambda: destination.put(source, "dumps/file", Transfer()))
    assert error.code == "destination-damaged"
    assert keys(destination) == []


def test_a_source_that_changes_meanwhile_is_not_stored(destination: S3Destination, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)

    def change(count: int) -> None:
        if count:
            with source.open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"!")

    error = refusal(lambda: destination.put(source, "dumps/file", Transfer(change, limit=len(LARGE))))
    assert error.code == "destination-failed"
    assert "changed" in error.message
    assert keys(destination) == []


def test_an_upload_in_parts_never_overwrites_what_came_meanwhile(
    destination: S3Destination, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)

    def overtake(count: int) -> None:
        if count:
            obstore.put(destination._server.store, "observatory/one/dumps/file", SMALL)

    error = refusal(lambda: destination.put(source, "dumps/file", Transfer(overtake, limit=len(LARGE))))
    assert error.code == "destination-conflict"
    assert fetched(destination, "dumps/file") == SMALL


def test_a_cancelled_upload_leaves_no_parts(
    s3_server: S3Server, bucket: str, destination: S3Destination, put: Put
) -> None:
    with pytest.raises(EnoughError):
        put("dumps/file", LARGE, Transfer(Progress(cancel_after=6 << 20), limit=len(LARGE)))
    assert s3_server.unfinished(bucket) == []
    assert keys(destination) == []


def test_what_was_left_unfinished_is_removed_by_the_next_upload_and_by_age(
    s3_server: S3Server, bucket: str, destination: S3Destination, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("observatory/one/dumps/file", "observatory/one/dumps/file2", "elsewhere/file"):
        s3_server.begin_upload(bucket, path)
    put("dumps/file", LARGE)
    assert {upload.path for upload in s3_server.unfinished(bucket)} == {
        "observatory/one/dumps/file2",
        "elsewhere/file",
    }
    destination.check()
    assert len(s3_server.unfinished(bucket)) == 2
    destination._server.abandon_old("observatory/one/", datetime.now(UTC))
    assert [upload.path for upload in s3_server.unfinished(bucket)] == ["elsewhere/file"]


def test_unfinished_uploads_to_names_of_all_kinds_are_removed(
    s3_server: S3Server, bucket: str, destination: S3Destination
) -> None:
    for name in SEAWEED_NAMES:
        s3_server.begin_upload(bucket, f"observatory/one/{name}")
    assert len(s3_server.unfinished(bucket)) == len(SEAWEED_NAMES)
    for name in SEAWEED_NAMES:
        destination._server.abandon(f"observatory/one/{name}")
    assert s3_server.unfinished(bucket) == []


# Who is refused


def test_wrong_credentials_are_denied_and_not_told(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    wrong = made(s3_server.table(bucket, secret_access_key=f"{SECRET_KEY}!"), tmp_path)
    source = tmp_path / "source"
    source.write_bytes(SMALL)
    for action in (
        wrong.check,
        lambda: wrong.list("dumps"),
        lambda: wrong.read("dumps/file", 1),
        lambda: wrong.delete("dumps/file"),
        lambda: wrong.put(source, "dumps/file", Transfer()),
        lambda: fetched(wrong, "dumps/file"),
    ):
        error = refusal(action)
        assert error.code == "destination-denied"
        assert not error.passing


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
def test_who_may_only_read_is_denied(s3_server: S3Server, bucket: str, tmp_path: Path, size: int) -> None:
    keys_of = {"access_key_id": READER_ACCESS_KEY, "secret_access_key": READER_SECRET_KEY}
    reader = made(s3_server.table(bucket, **keys_of), tmp_path)
    source = tmp_path / "source"
    source.write_bytes(LARGE[:size])
    reader.check()
    assert refusal(lambda: reader.put(source, "dumps/file", Transfer())).code == "destination-denied"


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
def test_a_bucket_that_is_not_there_is_missing(s3_server: S3Server, tmp_path: Path, size: int) -> None:
    nowhere = made(s3_server.table("nowhere"), tmp_path)
    source = tmp_path / "source"
    source.write_bytes(LARGE[:size])
    for action in (
        nowhere.check,
        lambda: nowhere.list("dumps"),
        lambda: nowhere.put(source, "dumps/file", Transfer()),
    ):
        assert refusal(action).code == "destination-missing"


def test_keys_of_the_environment_are_used_where_the_table_has_none(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = s3_server.table(bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", table.pop("access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", table.pop("secret_access_key"))
    destination = made(table, tmp_path)
    destination.check()
    s3_server.begin_upload(bucket, "file")
    destination._server.abandon("file")
    assert s3_server.unfinished(bucket) == []


def test_a_token_of_the_environment_is_not_mixed_with_the_tables_keys(
    destination: S3Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    destination.check()


def test_a_key_that_cannot_be_sent_is_told(put: Put) -> None:
    with pytest.raises(DestinationError, match="can't have") as raised:
        put("dumps/line\nbreak")
    assert raised.value.code == "destination-failed"


# The network


def test_nobody_there_is_told(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    nobody = made({**s3_server.table(bucket), "endpoint": "http://127.0.0.1:1"}, tmp_path)
    error = refusal(nobody.check)
    assert error.code == "destination-unreachable"
    assert error.passing
    assert "connection" in error.message


@pytest.mark.parametrize("after", [0, 700, 6 << 20])
def test_a_server_that_falls_silent_ends_the_upload_in_time(
    behind: S3Destination, proxy: CuttingProxy, tmp_path: Path, after: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    proxy.break_after(after, "hang")
    started = time.monotonic()
    error = refusal(lambda: behind.put(source, "dumps/file", Transfer()))
    assert (error.code, error.passing) == ("destination-unreachable", True)
    assert "didn't answer in time" in error.message
    assert proxy.broken.is_set()
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("after", [0, 5 << 20])
def test_a_server_that_falls_silent_ends_the_download_in_time(
    behind: S3Destination, proxy: CuttingProxy, put_directly: Put, after: int
) -> None:
    put_directly("dumps/file", LARGE)
    proxy.break_after(after, "hang")
    started = time.monotonic()
    error = refusal(lambda: fetched(behind, "dumps/file"))
    assert (error.code, error.passing) == ("destination-unreachable", True)
    assert time.monotonic() - started < 15


@pytest.fixture(name="put_directly")
def _put_directly(put: Put) -> Put:
    """The same as put: it goes to ``destination``, which has no proxy before it."""
    return put


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_in_trouble_is_told_and_may_be_asked_again(
    behind: S3Destination, proxy: CuttingProxy, tmp_path: Path, status: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    proxy.answer(status)
    for action in (
        behind.check,
        lambda: behind.list("dumps"),
        lambda: behind.put(source, "dumps/file", Transfer()),
        lambda: fetched(behind, "dumps/file"),
    ):
        error = refusal(action)
        assert (error.code, error.passing) == ("destination-unreachable", True)
        assert str(status) in error.message
    proxy.pass_on()
    behind.put(source, "dumps/file", Transfer())
    assert digest(fetched(behind, "dumps/file")) == digest(LARGE)


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
def test_an_answer_lost_when_all_was_done_is_no_failure_and_no_conflict(
    behind: S3Destination, proxy: CuttingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE[:size])
    put = obstore.put

    def forgetful(*arguments: Any, **options: Any) -> Any:
        put(*arguments, **options)
        monkeypatch.setattr(obstore, "put", put)
        raise obstore.exceptions.GenericError("the connection was cut")

    monkeypatch.setattr(obstore, "put", forgetful)
    behind.put(source, "dumps/file", Transfer())
    assert digest(fetched(behind, "dumps/file")) == digest(LARGE[:size])


def test_a_server_that_knows_no_conditions_is_given_none(
    destination: S3Destination, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = obstore.put

    def plain(*arguments: Any, **options: Any) -> Any:
        if options.get("mode") == "create":
            raise obstore.exceptions.GenericError("status code: 501 <Code>NotImplemented</Code>")
        return real(*arguments, **options)

    monkeypatch.setattr(obstore, "put", plain)
    put("dumps/file")
    assert fetched(destination, "dumps/file") == SMALL
    with pytest.raises(DestinationError) as raised:
        put("dumps/file", b"another")
    assert raised.value.code == "destination-conflict"
    assert fetched(destination, "dumps/file") == SMALL


# TLS


Serve = Callable[[str], tuple[CuttingProxy, Path]]


@pytest.fixture(name="serve_tls")
def _serve_tls(s3_server: S3Server, tmp_path: Path) -> Iterator[Serve]:
    """Gives the server behind TLS, with a certificate that nobody trusts yet, and that certificate."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    with ExitStack() as running:

        def serve(authority: str) -> tuple[CuttingProxy, Path]:
            new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key)]
            names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
            kind = ["-addext", f"basicConstraints=critical,CA:{authority}", "-days", "2"]
            run(["openssl", "req", "-x509", *new, *names, *kind, "-out", str(certificate)])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            return running.enter_context(CuttingProxy(s3_server.port, context)), certificate

        yield serve


def test_a_certificate_of_the_operators_is_trusted_and_no_other(
    s3_server: S3Server, bucket: str, serve_tls: Serve, tmp_path: Path
) -> None:
    tls, certificate = serve_tls("FALSE")
    table = {**s3_server.table(bucket), "endpoint": tls.url}
    error = refusal(made(table, tmp_path).check)
    assert error.code == "destination-unreachable"
    assert "certificate" in error.message
    assert "ca_file" in error.hint
    trusting = made({**table, "ca_file": certificate}, tmp_path)
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    s3_server.begin_upload(bucket, "dumps/file")
    trusting.put(source, "dumps/file", Transfer())
    assert digest(fetched(trusting, "dumps/file")) == digest(LARGE)
    assert s3_server.unfinished(bucket) == []


def test_an_authoritys_certificate_is_no_servers(
    s3_server: S3Server, bucket: str, serve_tls: Serve, tmp_path: Path
) -> None:
    tls, certificate = serve_tls("TRUE")
    table = {**s3_server.table(bucket), "endpoint": tls.url, "ca_file": certificate}
    assert "CA:FALSE" in refusal(made(table, tmp_path).check).hint


def test_a_certificate_that_cannot_be_read_is_told(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    blind = made(s3_server.table(bucket, ca_file=tmp_path / "nowhere.pem"), tmp_path)
    assert "ca_file" in refusal(blind.check).hint


@pytest.mark.slow
def test_cut_a_hundred_times_everything_is_there_whole_and_once_and_nothing_else(
    s3_server: S3Server,
    bucket: str,
    behind: S3Destination,
    destination: S3Destination,
    proxy: CuttingProxy,
    tmp_path: Path,
) -> None:
    drawn = random.Random(20260101)
    stored: dict[str, str] = {}
    cuts = 0
    while cuts < 100:
        data = drawn.randbytes(drawn.choice([1000, PART, 2 * PART + 5, len(LARGE)]))
        key, source = f"dumps/{len(stored)}.sql.gz", tmp_path / "source"
        source.write_bytes(data)
        # Uploads and the reading that verifies them: about twice the size goes over the line.
        for _ in range(drawn.randint(1, 8)):
            proxy.break_after(drawn.randint(0, 2 * len(data) + 4000), "cut", stays=drawn.random() < 0.5)
            with suppress(DestinationError):
                behind.put(source, key, Transfer())
            cuts += proxy.broken.is_set()
            if keys(destination) != sorted(stored):
                break
        proxy.pass_on()
        if key not in keys(destination):
            behind.put(source, key, Transfer())
        stored[key] = digest(data)
        assert keys(destination) == sorted(stored)
    assert {key: digest(fetched(destination, key)) for key in keys(destination)} == stored
    assert keys(made(s3_server.table(bucket), tmp_path), "observatory") == sorted(
        f"observatory/one/{key}" for key in stored
    )
    assert s3_server.unfinished(bucket) == []


# Memory

_UPLOAD = """
import json, re, sys
from pathlib import Path
from arcbackupd.destinations import Transfer
from arcbackupd.destinations.s3 import S3Destination
from arcbackupd.destinations.s3_settings import S3Settings

def peak():  # getrusage counts what this process was before it became python
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

table, source = json.loads(sys.argv[1]), Path(sys.argv[2])
destination = S3Destination("vault", S3Settings(**table), Path("/nowhere"))
destination.check()
before = peak()
destination.put(source, "dumps/file", Transfer())
with open("/dev/null", "wb") as nothing:
    destination.get("dumps/file", nothing, Transfer())
print(peak() - before)
"""


@pytest.mark.slow
def test_a_large_file_takes_no_more_memory_than_its_parts(
    s3_server: S3Server, bucket: str, repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for number in range(300):
            file.write(random.Random(number).randbytes(1 << 20))
    done = subprocess.run(
        [sys.executable, "-c", _UPLOAD, json.dumps(s3_server.table(bucket)), source],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 80 << 20

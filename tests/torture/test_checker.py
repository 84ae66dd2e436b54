"""The checker finds what it is there to find: each promise is broken by hand here, and it says so."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.restoring import NEW, Quick
from tests.e2e.support import dump_sessions
from tests.harness.process import wait_until
from tests.torture import checker
from tests.torture.checker import Ledger, Site, check, take_ledger
from tests.torture.conftest import Grounds
from tests.torture.dump_reading import read_dump
from tests.torture.rig import site_of

SQL = b"""\
\\restrict AbC
COPY public.frames (n) FROM stdin;
1
2
\\.
-- PostgreSQL database dump complete
\\unrestrict AbC
"""


def problem(path: Path, sql: bytes) -> str | None:
    path.write_bytes(gzip.compress(sql))
    return read_dump(path).problem


# Files


def test_a_whole_dump_has_no_problem_and_its_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    assert problem(path, SQL) is None
    assert read_dump(path).rows == {"public.frames": 2}


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (b"2\n\\.\n-- PostgreSQL database dump complete\n\\unrestrict AbC\n", "inside the rows of public.frames"),
        (b"-- PostgreSQL database dump complete\n\\unrestrict AbC\n", "closing line is missing"),
        (b"\\unrestrict AbC\n", "\\unrestrict isn't that of its \\restrict"),
    ],
)
def test_a_dump_that_lacks_its_end_has_a_problem(tmp_path: Path, cut: bytes, said: str) -> None:
    assert SQL.endswith(cut)
    assert said in (problem(tmp_path / "dump", SQL.removesuffix(cut)) or "")


def test_a_closing_line_among_rows_closes_nothing(tmp_path: Path) -> None:
    rows = b"COPY t FROM stdin;\n-- PostgreSQL database dump complete\n"
    assert "inside the rows of t" in (problem(tmp_path / "dump", rows) or "")


@pytest.mark.parametrize("length", [0, 9, -9])
def test_a_gzip_that_was_cut_has_a_problem(tmp_path: Path, length: int) -> None:
    path = tmp_path / "dump"
    path.write_bytes(gzip.compress(SQL)[:length])
    assert read_dump(path).problem


def test_retention_may_take_what_is_old_and_not_the_newest_of_three_contents() -> None:
    good = {
        "backup-20260301-000000.sql.gz": "d",
        "backup-20260201-000000.sql.gz": "c",
        "backup-20260131-000000.sql.gz": "c",
        "backup-20260130-000000.sql.gz": "b",
        "backup-20260129-000000.sql.gz": "a",
        "backup-20260228-000000.sql.gz": "a",
    }
    going = {name[7:15] for name in good if checker.may_go(name, good)}
    assert going == {"20260131", "20260130", "20260129"}


# A stack


@pytest.fixture
def quick(tortured_stack: Quick, grounds: Grounds) -> Quick:
    """Return a stack as new, without a daemon."""
    grounds.close()
    return tortured_stack.reset()


@pytest.fixture
def site(quick: Quick) -> Site:
    """Return where things are in it."""
    return site_of(quick)


@pytest.fixture
def ledger(site: Site) -> Ledger:
    """Return what is there."""
    found = take_ledger(site)
    assert check(site, found) == []
    return found


def broken(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewritten(path: Path) -> None:
    path.write_bytes(gzip.compress(SQL))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(broken, "isn't whole"), (Path.unlink, "is gone"), (rewritten, "something else than before")],
)
def test_a_backup_that_was_spoiled_is_found(
    site: Site, ledger: Ledger, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(site.backups / NEW)
    found = check(site, ledger)
    assert any(said in sentence for sentence in found), found
    assert check(site, ledger, damaged=[NEW]) == []


def test_what_is_left_behind_is_found(site: Site, ledger: Ledger, quick: Quick) -> None:
    site.state_dir.mkdir(exist_ok=True)
    (site.backups / ".backup-20260101-000000.sql.gz.partial").touch()
    (site.state_dir / "restore.json").touch()
    checker.psql(site, "CREATE DATABASE arcbackupd_staging_1", "postgres")
    checker.docker(site, "exec", site.database, "mkdir", "-m", "700", "/tmp/arcbackupd-pipe-1")
    found = " | ".join(check(site, ledger))
    for said in (".partial was left", "a restore isn't ended", "arcbackupd_staging_1 was left", "pipes were left"):
        assert said in found
    checker.docker(site, "exec", site.database, "rmdir", "/tmp/arcbackupd-pipe-1")


def test_what_still_runs_is_found(site: Site, ledger: Ledger, quick: Quick) -> None:
    with session(site) as asking:
        wait_until(lambda: dump_sessions(quick.stack), "the session")
        found = " | ".join(check(site, ledger))
        for said in (
            "the session arcbackupd-dump-1 is still",
            "psql still runs in",
            "a process was left: docker exec",
        ):
            assert said in found
        asking.kill()
    checker.psql(
        site, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%-dump-1'"
    )


class session:  # noqa: N801 - used like a function
    """A session on the server that is named as one of the daemon's dumps."""

    def __init__(self, site: Site) -> None:
        argv = ["docker", "exec", "-e", "PGPASSWORD", "-e", "PGAPPNAME=arcbackupd-dump-1", site.database, "psql"]
        self._process = subprocess.Popen(
            [*argv, "-U", site.user, "-d", site.db, "-c", "SELECT pg_sleep(60)"],
            env={**os.environ, "DOCKER_HOST": site.docker_host, "PGPASSWORD": site.secret},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def test_another_content_of_the_live_database_is_found(site: Site, ledger: Ledger) -> None:
    checker.psql(site, "DELETE FROM frames WHERE n = 1")
    assert check(site, ledger) == ["the live database isn't what it was: public.frames"]
    assert check(site, ledger, live=[checker.content(site)]) == []


def test_a_live_database_that_takes_no_connections_is_found(site: Site, ledger: Ledger) -> None:
    checker.psql(site, f"ALTER DATABASE {site.db} ALLOW_CONNECTIONS false", "postgres")
    try:
        [said] = check(site, ledger)
        assert "the live database doesn't answer" in said
    finally:
        checker.psql(site, f"ALTER DATABASE {site.db} ALLOW_CONNECTIONS true", "postgres")


def test_services_that_are_stopped_or_frozen_are_found(site: Site, ledger: Ledger, quick: Quick) -> None:
    engine, name = quick.stack.engine, quick.service
    engine.run("pause", name)
    try:
        assert check(site, ledger) == [f"{name} is frozen"]
    finally:
        engine.run("unpause", name)
    engine.run("stop", name)
    assert check(site, ledger) == [f"{name} doesn't run"]
    engine.run("start", name)


def test_a_dump_that_does_not_load_is_found(site: Site, quick: Quick) -> None:
    assert checker.loads(site, site.backups / NEW) is None
    wrong = site.backups / "backup-20260103-000000.sql.gz"
    wrong.write_bytes(gzip.compress(SQL))
    assert "doesn't load" in (checker.loads(site, wrong) or "")


# Secrets and sizes


def test_a_secret_in_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("PGPASSWORD=sesame")
    assert list(checker.told("sesame", log)) == ["log has the password in it"]
    assert list(checker.told("other", log)) == []


def test_the_size_of_a_process_counts_its_descriptors(tmp_path: Path) -> None:
    before = checker.size_of(os.getpid())
    with (tmp_path / "file").open("w"):
        assert checker.size_of(os.getpid()).descriptors == before.descriptors + 1

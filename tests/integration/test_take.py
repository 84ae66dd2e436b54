"""Dumps of a real PostgreSQL through the local engine: what is written, what is said, what is left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.dumps.dumpfile import MEMBER_SIZE
from arcbackupd.dumps.manifest import Reason
from arcbackupd.dumps.retention import Policy
from arcbackupd.dumps.writer import DirectoryLock
from arcbackupd.errors import OperationFailed
from arcbackupd.installation import Installation, read_installation
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.database import Database
from arcbackupd.operations.events import Event, Progress, Step, Steps
from arcbackupd.operations.prune import PruneOutcome, prune
from arcbackupd.operations.take import TakeContext, TakeOutcome, take
from arcbackupd.operations.verify import Verified, verify_file
from arcbackupd.settings import Dump, Engine, LocalEngine
from arcbackupd.stack import open_engine
from tests.harness.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.harness.process import wait_until

HOSTILE = Path(__file__).parents[1] / "data" / "hostile.sql"
OURS = "application_name ~ '^arcbackupd-dump'"
PASSWORD = "Geheim-im-Test-4711"


class Site:
    """A database on a throwaway server, and a directory for its backups."""

    def __init__(self, server: EmbeddedPostgres, database: str, home: Path, **dump: object) -> None:
        self.server = server
        self.database = database
        self.home = home
        self.settings = Dump.model_validate({"wait_for_database": "5s", **dump})
        (home / "shared").mkdir()
        (home / ".env").write_text(
            f"SHARED_DATA_PATH=shared\nPOSTGRES_DB={database}\n"
            f"POSTGRES_USER={server.superuser}\nPOSTGRES_PASSWORD={PASSWORD}\n"
        )
        self.catalogue = Catalogue(home / "catalogue.json")

    @property
    def installation(self) -> Installation:
        return read_installation(self.home)

    @property
    def backups(self) -> Path:
        return self.installation.backups_dir

    def context(self) -> TakeContext:
        local = LocalEngine(
            bin_dir=self.server.bin_dir, host=str(self.server.socket_dir), os_user=self.server.user or "root"
        )
        engine = open_engine(Engine(kind="local", local=local))
        database = Database(engine, self.installation)
        return TakeContext(self.installation, database, self.settings, self.catalogue, "this-host", lambda: "image")

    def begin(self, reason: Reason = Reason.MANUAL, cancellation: Cancellation | None = None) -> Steps[TakeOutcome]:
        return take(self.context(), reason, cancellation or Cancellation())

    def take(self, reason: Reason = Reason.MANUAL) -> TakeOutcome:
        return drain(self.begin(reason))

    def take_name(self, reason: Reason = Reason.MANUAL) -> str:
        name = self.take(reason).name
        assert name is not None
        return name

    def files(self) -> list[str]:
        """Everything in the directory but the lock, hidden files too."""
        if not self.backups.exists():
            return []
        return sorted(path.name for path in self.backups.iterdir() if path.name != ".arcbackupd.lock")

    def sql(self, text: str) -> str:
        return self.server.psql(text, self.database)

    def sessions(self) -> int:
        """How many sessions of our dumps the server has."""
        return int(
            self.server.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^arcbackupd-dump'")
        )


def drain(steps: Steps[TakeOutcome], heard: Callable[[Event], None] = lambda event: None) -> TakeOutcome:
    """Run a dump to its end, in a thread of its own, whose priority it may lower."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_drain, steps, heard).result()


def _drain(steps: Steps[TakeOutcome], heard: Callable[[Event], None]) -> TakeOutcome:
    while True:
        try:
            heard(next(steps))
        except StopIteration as stop:
            outcome: TakeOutcome = stop.value
            return outcome


@pytest.fixture(name="make_site")
def _make_site(embedded_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[str] = []

    def make(**dump: object) -> Site:
        name = f"site_{os.getpid()}_{len(made)}_{os.urandom(3).hex()}"
        embedded_postgres.create_database(name)
        made.append(name)
        home = tmp_path / name
        home.mkdir()
        return Site(embedded_postgres, name, home, **dump)

    yield make
    for name in made:
        embedded_postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(name="site")
def _site(make_site: Callable[..., Site]) -> Site:
    site = make_site()
    site.sql(
        "CREATE TABLE t (id int PRIMARY KEY, note text);"
        "INSERT INTO t SELECT i, 'é' || i FROM generate_series(1, 500) i"
    )
    return site


@pytest.fixture(name="large")
def _large(make_site: Callable[..., Site]) -> Site:
    """Large enough that something can happen in the middle of its dump."""
    site = make_site(stall_timeout="2s", lock_timeout="1s")
    site.sql("CREATE TABLE t AS SELECT i AS id, repeat(md5(i::text), 30) AS doc FROM generate_series(1, 150000) i")
    return site


@pytest.fixture(name="hostile", scope="module")
def _hostile(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    name = "hostile"
    embedded_postgres.create_database(name)
    roles = ("Night Observer", "archive_reader")
    embedded_postgres.psql(HOSTILE.read_text("utf-8"), name)
    yield name
    embedded_postgres.psql(f"DROP DATABASE {name}")
    for role in roles:
        embedded_postgres.psql(f'DROP ROLE "{role}"')


def fingerprint(server: EmbeddedPostgres, database: str) -> dict[str, str]:
    """Rows of every table, hashed in an order of their own."""
    tables = server.psql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname !~ '^pg_' AND schemaname <> 'information_schema' AND tablename !~ '\\n'",
        database,
    ).splitlines()
    query = "SELECT count(*) || ' ' || coalesce(md5(string_agg(r::text, E'\\n' ORDER BY r::text)), '-') FROM {} r"
    return {table: server.psql(query.format(table), database) for table in tables}


def load(server: EmbeddedPostgres, dump: Path, database: str) -> None:
    """Restore as anybody can, with nothing but gunzip and psql."""
    text = subprocess.run(["gunzip", "-c", str(dump)], capture_output=True, check=True).stdout
    server.create_database(database)
    server.pg(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database], stdin=text.decode("utf-8"))


# What is written


def test_a_hostile_database_is_told_right_table_by_table(
    embedded_postgres: EmbeddedPostgres, hostile: str, tmp_path: Path
) -> None:
    site = Site(embedded_postgres, hostile, tmp_path)
    name = site.take_name()
    (backup,) = site.catalogue.read(site.backups)
    assert (backup.name, backup.state) == (name, "good")
    assert backup.migrations == ("targets.0001_initial", "targets.0002_add_epoch", "auth.0001_initial")
    assert {"Night Observer", "archive_reader"} <= set(backup.roles)
    counted = {table: int(said.split()[0]) for table, said in fingerprint(embedded_postgres, hostile).items()}
    told = {table: count for table, count in backup.rows.items() if "\n" not in table}
    assert told == counted


def test_a_manifest_holds_the_hashes_of_what_gunzip_gives(site: Site) -> None:
    name = site.take_name(Reason.BOOT)
    (backup,) = site.catalogue.read(site.backups)
    sql = gzip.decompress((site.backups / name).read_bytes())
    assert backup.manifest is not None
    assert backup.manifest.sql_sha256 == hashlib.sha256(sql).hexdigest()
    assert backup.manifest.sql_length == len(sql)
    assert (backup.manifest.database, backup.reason) == (site.database, Reason.BOOT)
    assert backup.manifest.server_version.startswith("18.")


@pytest.mark.parametrize("target", [16, 18])
def test_a_dump_restores_with_gunzip_and_psql_on_the_same_and_on_a_newer_major(
    embedded_major: Callable[[int], EmbeddedPostgres], tmp_path: Path, target: int
) -> None:
    source, goal = embedded_major(16), embedded_major(target)
    database, restored = f"source_{target}", f"restored_{target}"
    source.create_database(database)
    source.psql(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT i, E'\\\\.\\n' || i"
        " FROM generate_series(1, 1000) i; CREATE VIEW v AS SELECT count(*) FROM t",
        database,
    )
    site = Site(source, database, tmp_path)
    load(goal, site.backups / site.take_name(), restored)
    assert fingerprint(goal, restored) == fingerprint(source, database)
    source.psql(f"DROP DATABASE {database}")
    goal.psql(f"DROP DATABASE {restored}")


def test_an_unchanged_dump_is_another_name_of_the_same_file(site: Site) -> None:
    first = site.take()
    assert first.name is not None
    os.utime(site.backups / first.name, (1, 1))
    second = site.take(Reason.SCHEDULED)
    assert second.outcome == "unchanged"
    newest, oldest = site.catalogue.read(site.backups)
    assert newest.identity.inode == oldest.identity.inode
    assert (newest.reason, oldest.reason) == (Reason.SCHEDULED, Reason.MANUAL)
    assert datetime.now(UTC) - newest.modified_at < timedelta(minutes=1)


def test_the_reason_of_an_unchanged_dump_survives_a_restart(site: Site) -> None:
    site.take()
    site.take(Reason.SCHEDULED)
    again = Catalogue(site.home / "catalogue.json")
    assert [backup.reason for backup in again.read(site.backups)] == [Reason.SCHEDULED, Reason.MANUAL]


def test_dumps_of_another_program_in_between_dont_keep_an_unchanged_one_from_being_linked(site: Site) -> None:
    first = site.take_name()
    foreign = site.backups / f"backup-{datetime.now(UTC) + timedelta(seconds=30):%Y%m%d-%H%M%S}.sql.gz"
    foreign.write_bytes(gzip.compress(gzip.decompress((site.backups / first).read_bytes())))
    os.utime(foreign, (1, 1))
    wait_until(lambda: site.catalogue.scan_pending(site.backups, time.time()), "the scan of the foreign dump")
    assert [backup.good for backup in site.catalogue.read(site.backups)] == [True, True]
    assert site.take(Reason.SCHEDULED).outcome == "unchanged"


def test_a_changed_row_makes_a_file_of_its_own(site: Site) -> None:
    site.take()
    site.sql("UPDATE t SET note = 'x' WHERE id = 7")
    assert site.take(Reason.SCHEDULED).outcome == "published"
    assert [backup.links for backup in site.catalogue.read(site.backups)] == [1, 1]


@pytest.mark.parametrize("dump", [{}, {"link_unchanged": False}])
def test_boot_dumps_and_those_of_whoever_wants_no_links_are_written_whole(
    make_site: Callable[..., Site], dump: dict[str, object]
) -> None:
    site = make_site(**dump)
    site.sql("CREATE TABLE t (id int)")
    site.take()
    assert site.take(Reason.SCHEDULED if dump else Reason.BOOT).outcome == "published"


@pytest.mark.parametrize("reason", [Reason.BOOT, Reason.SCHEDULED])
def test_a_database_without_tables_needs_no_automatic_dump(make_site: Callable[..., Site], reason: Reason) -> None:
    site = make_site()
    assert site.take(reason).outcome == "skipped"
    assert site.files() == []


def test_a_dump_by_hand_is_taken_of_an_empty_database_too(make_site: Callable[..., Site]) -> None:
    assert make_site().take(Reason.MANUAL).outcome == "published"


def test_a_dump_has_its_mode_from_the_settings(make_site: Callable[..., Site]) -> None:
    site = make_site(mode="0604")
    name = site.take_name()
    assert (site.backups / name).stat().st_mode & 0o777 == 0o604


# What goes wrong


@contextmanager
def failing(site: Site, code: str) -> Iterator[list[OperationFailed]]:
    """Within it an OperationFailed of that code is raised, and leaves nothing: no name, no partial, no session."""
    caught: list[OperationFailed] = []
    with pytest.raises(OperationFailed) as raised:
        yield caught
    caught.append(raised.value)
    assert raised.value.code == code
    assert raised.value.hint
    assert site.files() == []
    wait_until(lambda: site.sessions() == 0, "the end of the server's side of the dump")


def signal_pg_dump(site: Site, number: signal.Signals) -> None:
    """Signal this database's pg_dump and no other on the host."""
    pattern = f"pg_dump .*dbname='{site.database}'"
    subprocess.run(["pkill", f"-{number.name.removeprefix('SIG')}", "-f", pattern], check=True)


def after_progress(steps: Steps[TakeOutcome], act: Callable[[], object]) -> TakeOutcome:
    """Run a dump and do something once, while its rows are on their way."""
    acted: list[object] = []

    def heard(event: Event) -> None:
        if isinstance(event, Progress) and not acted:
            acted.append(act() or True)

    outcome = drain(steps, heard)
    assert acted, "the dump was over before anything could happen to it"
    return outcome


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, "program-killed"), (signal.SIGTERM, "program-failed")]
)
def test_a_pg_dump_that_is_ended_leaves_nothing(large: Site, number: signal.Signals, code: str) -> None:
    with failing(large, code):
        after_progress(large.begin(), lambda: signal_pg_dump(large, number))


def test_a_pg_dump_that_stops_writing_is_given_up(large: Site) -> None:
    with failing(large, "timed-out"):
        after_progress(large.begin(), lambda: signal_pg_dump(large, signal.SIGSTOP))


def test_a_session_ended_by_the_server_is_an_error(large: Site) -> None:
    ending = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}"
    with failing(large, "server-went"):
        after_progress(large.begin(), lambda: large.server.psql(ending))


def test_a_locked_table_holds_a_dump_up_no_longer_than_the_setting(large: Site) -> None:
    locking = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)"
    holder = threading.Thread(target=lambda: _ended(lambda: large.sql(locking)))
    holder.start()
    locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
    wait_until(lambda: large.server.psql(locks) != "0", "the lock on the table")
    try:
        with failing(large, "lock-timeout"):
            large.take()
    finally:
        sleeping = "query ~ 'pg_sleep' AND pid <> pg_backend_pid()"
        large.server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {sleeping}")
        holder.join()


def _ended(work: Callable[[], object]) -> None:
    with pytest.raises(EmbeddedPostgresError, match="terminating connection"):
        work()


def test_a_missing_database_is_told_with_the_setting_to_correct(site: Site) -> None:
    env = site.home / ".env"
    env.write_text(env.read_text().replace(site.database, "nowhere"))
    with failing(site, "no-database") as caught:
        site.take()
    assert "POSTGRES_DB" in caught[0].hint


def test_a_wrong_password_is_told_without_showing_it(tmp_path: Path) -> None:
    with EmbeddedPostgres(18, password="right") as server:
        site = Site(server, "postgres", tmp_path)
        with pytest.raises(OperationFailed) as raised:
            site.take()
    assert raised.value.code == "wrong-password"
    assert PASSWORD not in raised.value.message + raised.value.hint
    assert site.files() == []


def test_a_server_that_crashes_is_an_error_and_the_next_dump_succeeds(tmp_path: Path) -> None:
    with EmbeddedPostgres(18) as server:
        server.create_database("crashing")
        site = Site(server, "crashing", tmp_path)
        site.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100000) i")
        with pytest.raises(OperationFailed) as raised:
            after_progress(site.begin(), lambda: server.stop(signal.SIGKILL))
        assert raised.value.code == "server-went"
        assert site.files() == []
        server.start()
        assert site.take().outcome == "published"


def test_a_cancelled_dump_leaves_nothing(large: Site) -> None:
    cancellation = Cancellation()
    with pytest.raises(Cancelled, match="the daemon stops"):
        after_progress(large.begin(cancellation=cancellation), lambda: cancellation.cancel("the daemon stops"))
    assert large.files() == []
    wait_until(lambda: large.sessions() == 0, "the end of the server's side of the dump")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a filesystem of its own")
def test_a_disk_that_fills_up_leaves_nothing_and_refuses_the_next_dump_beforehand(large: Site) -> None:
    shared = large.home / "shared"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(shared)], check=True)
    try:
        with failing(large, "disk-full"):
            after_progress(large.begin(), lambda: _fill(shared))
        with failing(large, "disk-full") as told:
            large.take()
        assert "bytes are free" in told[0].message
    finally:
        subprocess.run(["umount", "--lazy", str(shared)], check=True)


def _fill(directory: Path) -> None:
    with suppress(OSError), (directory / "telescope.fits").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_a_shared_path_that_is_missing_is_told(site: Site) -> None:
    (site.home / "shared").rmdir()
    with failing(site, "no-shared-path"):
        site.take()


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"something else")])
def test_a_last_dump_that_somebody_changed_meanwhile_gets_no_other_name(
    site: Site, change: Callable[[Path], object]
) -> None:
    last = site.backups / site.take_name()

    def change_when_proved(event: Event) -> None:
        if isinstance(event, Step) and event.name == "publish":
            change(last)

    assert drain(site.begin(Reason.SCHEDULED), change_when_proved).outcome == "published"


def test_closing_the_steps_abandons_the_dump(large: Site) -> None:
    steps = large.begin()
    while not isinstance(next(steps), Progress):
        pass
    steps.close()
    assert large.files() == []
    wait_until(lambda: large.sessions() == 0, "the end of the server's side of the dump")


def test_a_dump_waits_for_another_process_that_works_on_the_same_backups(site: Site) -> None:
    site.take()
    seen: list[str] = []
    with DirectoryLock(site.backups) as lock:
        assert lock.acquire()
        steps = site.begin()
        while "lock" not in seen:
            event = next(steps)
            assert isinstance(event, Step)
            seen.append(event.name)
    assert drain(steps).outcome == "unchanged"


def test_no_secret_is_in_any_argument_list_while_a_dump_runs(large: Site) -> None:
    def look() -> None:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert any(b"pg_dump" in line for line in lines)
        assert not any(PASSWORD.encode() in line for line in lines)

    after_progress(large.begin(), look)


# Verify and prune


def verify(site: Site, name: str) -> Verified:
    backup = next(backup for backup in site.catalogue.read(site.backups) if backup.name == name)
    steps = verify_file(site.backups / name, backup)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            verified: Verified = stop.value
            return verified


def test_verify_reads_all_of_it(site: Site) -> None:
    name = site.take_name()
    assert verify(site, name) == Verified(None, len(gzip.decompress((site.backups / name).read_bytes())))


def test_verify_finds_a_flipped_bit_anywhere_in_the_data(site: Site) -> None:
    name = site.take_name()
    path = site.backups / name
    whole = path.read_bytes()
    for position in range(MEMBER_SIZE + 20, len(whole), max(1, (len(whole) - MEMBER_SIZE) // 40)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert verify(site, name).problem, f"a bit flipped at {position}"


def test_pruning_removes_the_old_ones_and_keeps_what_must_stay(site: Site) -> None:
    newest = site.take_name()
    site.sql("INSERT INTO t VALUES (0, 'new')")
    site.take()
    for days in range(20, 26):  # names that this host gave long ago
        old = datetime.now(UTC) - timedelta(days=days)
        (site.backups / f"backup-{old:%Y%m%d-%H%M%S}.sql.gz").write_bytes((site.backups / newest).read_bytes())
    steps = prune(site.catalogue, site.backups, Policy(keep_last=1), "this-host", lambda: None, Cancellation())
    outcome = None
    while outcome is None:
        try:
            next(steps)
        except StopIteration as stop:
            outcome = stop.value
    assert isinstance(outcome, PruneOutcome)
    assert len(outcome.removed) == 6
    assert len(site.files()) == 2
    assert outcome.freed == 6 * (site.backups / newest).stat().st_size

"""The log: journal fields, lines on a terminal, and what never gets into either."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import structlog

from arcbackupd import log, messages
from arcbackupd.errors import OperationFailed
from arcbackupd.messages import MessageId

CATALOG = Path(__file__).parents[2] / "systemd" / "arcbackupd.catalog"


@pytest.fixture(autouse=True)
def pristine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the process's one log back as it was."""
    root, sh = logging.getLogger(), logging.getLogger("sh")
    before = list(root.handlers), root.level, sh.level
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_secret_pattern", None)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    sh.setLevel(before[2])
    structlog.reset_defaults()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Log to a journal that keeps its entries in a list."""
    entries: list[dict[str, str]] = []
    monkeypatch.setattr(log, "_journal_sender", lambda: lambda **fields: entries.append(fields))
    log.configure_logging("debug", journal=True)
    return entries


@contextmanager
def lines(*, terminal: bool = False) -> Iterator[io.StringIO]:
    """Log as lines to a stderr that is, or isn't, a terminal."""
    stream = io.StringIO()
    with patch.object(stream, "isatty", lambda: terminal), patch.object(sys, "stderr", stream):
        log.configure_logging("debug", journal=False)
        yield stream


def fail(text: str) -> None:
    raise ValueError(text)


def test_an_entry_has_the_sentence_its_priority_and_its_fields(journal: list[dict[str, str]]) -> None:
    log.get_logger().warning("Disk is filling.", job="dump", bytes=42, duration_s=1.5, operation=None)
    (entry,) = journal
    assert entry["MESSAGE"] == "Disk is filling."
    assert entry["PRIORITY"] == "4"
    assert entry["SYSLOG_IDENTIFIER"] == "arcbackupd"
    assert (entry["JOB"], entry["BYTES"], entry["DURATION_S"]) == ("dump", "42", "1.5")
    assert "OPERATION" not in entry


def test_an_entry_tells_where_it_was_logged(journal: list[dict[str, str]]) -> None:
    log.get_logger().info("Here.")
    assert journal[0]["CODE_FILE"] == __file__
    assert journal[0]["CODE_FUNC"] == "test_an_entry_tells_where_it_was_logged"
    assert journal[0]["CODE_LINE"].isdecimal()


def test_a_failure_tells_where_it_was_logged_and_what_to_do(journal: list[dict[str, str]]) -> None:
    log.failure(OperationFailed("db-stopped", "The database is stopped.", hint="Start it."), job="dump")
    (entry,) = journal
    assert entry["MESSAGE"] == "The database is stopped.\nStart it."
    assert (entry["HINT"], entry["ERROR_CODE"], entry["PRIORITY"]) == ("Start it.", "db-stopped", "3")
    assert entry["CODE_FUNC"] == "test_a_failure_tells_where_it_was_logged_and_what_to_do"
    assert "EXCEPTION" not in entry


def test_message_ids_are_what_journalctl_expects(journal: list[dict[str, str]]) -> None:
    log.get_logger().info("Published.", message_id=MessageId.DUMP_PUBLISHED)
    assert re.fullmatch("[0-9a-f]{32}", journal[0]["MESSAGE_ID"])


def test_the_catalogue_explains_each_kind_of_event_once() -> None:
    explained = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(explained) == sorted(MessageId)


def explanations() -> dict[str, str]:
    """What the catalogue says about each kind of event."""
    _, *parts = re.split(r"^-- (?=[0-9a-f]{32}$)", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part[:32]: part[33:] for part in parts}


@pytest.mark.parametrize("kind", MessageId, ids=lambda kind: kind.name)
def test_an_explanation_says_what_to_do(kind: MessageId) -> None:
    text = explanations()[kind]
    assert re.search(
        r"nothing (?:else )?needs to be done|what to do|arcbackupctl|systemctl|groupadd", text, re.IGNORECASE
    )


@pytest.mark.parametrize("kind", MessageId, ids=lambda kind: kind.name)
def test_an_explanation_uses_the_fields_that_the_entry_has(kind: MessageId) -> None:
    source = Path(str(messages.__file__)).read_text(encoding="utf-8")
    told = re.search(rf'{kind}"\n    """fields: (.+)"""', source)
    used = set(re.findall(r"@([A-Z_]+)@", explanations()[kind]))
    assert used <= set(told[1].split(", ") if told else ())


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("job", "JOB"),
        ("size-in.bytes é", "SIZE_IN_BYTES__"),
        ("_pid", "PID"),
        ("2nd_try", "ND_TRY"),
        ("x" * 70, "X" * 64),
        ("_1", ""),
    ],
)
def test_a_field_name_is_one_that_journald_keeps(key: str, field: str) -> None:
    assert log.journal_field(key) == field


def test_no_field_can_take_the_place_of_the_sentence(journal: list[dict[str, str]]) -> None:
    log.get_logger().info("True.", MESSAGE="forged", priority=0, syslog_identifier="sshd", _1="dropped")
    (entry,) = journal
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("True.", "6", "arcbackupd")
    assert "" not in entry


def test_text_that_no_terminal_should_see_is_escaped(journal: list[dict[str, str]]) -> None:
    log.get_logger().info("a\x1b[31mb\udc80c\0", stderr="x\ty\nz\r")
    assert journal[0]["MESSAGE"] == r"a\x1b[31mb\udc80c\x00"
    assert journal[0]["STDERR"] == "x\ty\nz\\r"


def test_a_journal_that_takes_nothing_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_fields: str) -> None:
        raise OSError("no journal")

    monkeypatch.setattr(log, "_journal_sender", lambda: refuse)
    log.configure_logging(journal=True)
    log.get_logger().info("Still told.")
    assert capsys.readouterr().err == "Still told.\n"


def test_without_cysystemd_lines_go_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cysystemd.journal", None)
    log.configure_logging(journal=True)
    log.get_logger().info("A line.")
    assert capsys.readouterr().err.endswith("A line.\n")


def test_an_exception_travels_in_a_field_of_its_own(journal: list[dict[str, str]]) -> None:
    try:
        fail("boom")
    except ValueError:
        log.get_logger().exception("It broke.")
    assert journal[0]["MESSAGE"] == "It broke."
    assert journal[0]["EXCEPTION"].startswith("Traceback")
    assert journal[0]["EXCEPTION"].endswith("ValueError: boom")


def test_registered_secrets_are_replaced_everywhere(journal: list[dict[str, str]]) -> None:
    secret = "s3cr3t/'x\\y"
    log.redact(secret)
    try:
        fail(f"login with {secret!r} failed")
    except ValueError as error:
        log.get_logger().exception(
            f"at {secret}", hint=f"not {secret}", error=error, url="pg://u:s3cr3t%2F%27x%5Cy@h",
            argv=["psql", secret], nested={"a": [{"b": secret}]}, raw=secret.encode(),
        )  # fmt: skip
    everything = repr(journal)
    assert "s3cr3t" not in everything
    assert everything.count("***") >= 7
    assert journal[0]["ARGV"] == '["psql", "***"]'


def test_a_secret_inside_another_leaves_no_rest(journal: list[dict[str, str]]) -> None:
    log.redact("hunter2")
    log.redact("hunter2-and-more")
    log.get_logger().info("hunter2-and-more hunter2")
    assert journal[0]["MESSAGE"] == "*** ***"


def test_a_short_secret_is_only_replaced_as_a_word(journal: list[dict[str, str]]) -> None:
    log.redact("db")
    log.get_logger().info("password db of dbname and db_backups")
    assert journal[0]["MESSAGE"] == "password *** of dbname and db_backups"


def test_an_empty_secret_and_one_named_like_a_level_break_nothing(journal: list[dict[str, str]]) -> None:
    log.redact("")
    log.redact(" ")
    log.redact("info")
    log.get_logger().info("Some text.")
    assert (journal[0]["MESSAGE"], journal[0]["PRIORITY"]) == ("Some text.", "6")


@pytest.mark.parametrize("key", ["password", "PGPASSWORD", "secret_key", "auth_token", "db_passwd", "api_key"])
def test_fields_named_like_secrets_are_masked(journal: list[dict[str, str]], key: str) -> None:
    log.get_logger().info("x", **{key: "hunter2", "env": {key: 12345}})
    assert journal[0][key.upper()] == "***"
    assert "12345" not in journal[0]["ENV"]


def test_secrets_that_threads_register_at_the_same_moment_are_all_masked() -> None:
    together = threading.Barrier(4)

    def register(secret: str) -> None:
        together.wait()
        log.redact(secret)

    for moment in range(100):
        secrets = [f"secret-{moment}-{n}" for n in range(4)]
        threads = [threading.Thread(target=register, args=(secret,)) for secret in secrets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [log.redacted(secret) for secret in secrets] == ["***"] * 4


def test_redacted_serves_what_is_written_elsewhere() -> None:
    assert log.redacted("hunter2") == "hunter2"
    log.redact("hunter2")
    assert log.redacted("a hunter2 b") == "a *** b"


def test_bound_fields_are_on_every_entry_inside_and_on_none_after(journal: list[dict[str, str]]) -> None:
    with log.bound(job="dump"), log.bound(backup="backup-20260101-120000.sql.gz"):
        log.get_logger().info("in")
    log.get_logger().info("out")
    assert (journal[0]["JOB"], journal[0]["BACKUP"]) == ("dump", "backup-20260101-120000.sql.gz")
    assert not {"JOB", "BACKUP"} & set(journal[1])


def test_libraries_are_heard_from_warning_up(journal: list[dict[str, str]]) -> None:
    library = logging.getLogger("apscheduler.test")
    library.info("chatter")
    library.warning("missed by %s", "3 s")
    library.log(35, "between levels")
    assert [entry["MESSAGE"] for entry in journal] == ["missed by 3 s", "between levels"]
    assert journal[0]["LOGGER"] == "apscheduler.test"
    assert journal[0]["CODE_FILE"] == __file__


def test_a_library_that_logs_wrongly_is_still_heard(journal: list[dict[str, str]]) -> None:
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "wrong %s %s", ("arguments",), None)
    log._FromLibraries().emit(record)
    assert journal[0]["MESSAGE"] == "wrong %s %s"


def test_a_librarys_traceback_is_redacted_too(journal: list[dict[str, str]]) -> None:
    log.redact("hunter2")
    try:
        fail("with hunter2")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    assert journal[0]["EXCEPTION"].endswith("ValueError: with ***")


def test_sh_is_never_heard(journal: list[dict[str, str]]) -> None:
    for level in (logging.INFO, logging.ERROR, logging.CRITICAL):
        logging.getLogger("sh.command.process").log(level, "<Command docker exec -e …>")
    assert journal == []


def test_configuring_twice_changes_the_level_and_doubles_nothing(journal: list[dict[str, str]]) -> None:
    logger = log.get_logger()
    logger.debug("one")
    log.configure_logging("ERROR", journal=True)
    logger.warning("too quiet")
    logging.getLogger("x").warning("too quiet")
    logging.getLogger("x").error("two")
    assert [entry["MESSAGE"] for entry in journal] == ["one", "two"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'; known: debug, info"):
        log.configure_logging("loud", journal=False)


def test_what_nobody_caught_is_logged(journal: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))
    monkeypatch.setattr("faulthandler.enable", lambda: None)
    monkeypatch.setattr("logging.captureWarnings", lambda _on: None)
    log.log_uncaught()
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("main"), None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [entry["MESSAGE"] for entry in journal] == ["A thread crashed", "Crashed"]
    assert "ZeroDivisionError" in journal[0]["EXCEPTION"]
    assert journal[1]["PRIORITY"] == "2"


def test_a_line_has_utc_time_level_sentence_fields_and_hint() -> None:
    with lines() as stderr:
        log.get_logger().info(
            "Published.", hint="Look.", job="dump", path="/a b", message_id=MessageId.DUMP_PUBLISHED
        )
    first, second, rest = stderr.getvalue().split("\n")
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info    Published\.  job=dump path="/a b"', first)
    assert second.strip() == "Look."
    assert second.index("Look.") == first.index("Published.")
    assert rest == ""


def test_a_line_shows_the_traceback_below() -> None:
    with lines() as stderr:
        log.get_logger().error("It broke.", exc_info=ValueError("boom"))
    assert stderr.getvalue().rstrip().endswith("ValueError: boom")


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    terminal: bool,
    coloured: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with lines(terminal=terminal) as stderr:
        log.get_logger().info("Hello.", job="dump")
    assert ("\x1b[" in stderr.getvalue()) is coloured


def test_a_terminal_that_went_away_stops_nothing() -> None:
    with lines() as stderr:
        stderr.close()
        log.get_logger().info("Nobody reads this.")


def test_the_journal_is_used_only_when_stderr_is_the_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    assert log._under_journald()
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + 1}")
    assert not log._under_journald()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not log._under_journald()

"""The programs behind destinations: watched while they run, ended when nobody wants the rest, and understood."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from arcbackupd.destinations import DestinationError
from arcbackupd.destinations import programs as under_test
from arcbackupd.destinations.program_errors import LastWords, meaning, shown
from arcbackupd.destinations.programs import LocalFile, Watched, nothing, started
from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command


def script(text: str, *arguments: str) -> Command:
    return Command(("sh", "-c", text, "sh", *arguments), name="tool")


class EnoughError(OperationFailed):
    """What an operator who cancels makes a tick raise: an error of the daemon's own."""

    def __init__(self) -> None:
        super().__init__("cancelled", "Cancelled.")


def enough() -> None:
    raise EnoughError


# How they run


def test_lines_are_read_however_they_come() -> None:
    with started("nas", script("printf 'one\\ntw'; sleep 0.1; printf 'o\\n\\nthree'"), nothing) as tool:
        assert list(tool.lines()) == ["one", "two", "", "three"]
        assert tool.finish().status == 0


def test_what_it_says_to_its_error_output_comes_apart_or_with_the_rest() -> None:
    command = script("echo out; echo error >&2; exit 7")
    with started("nas", command, nothing) as tool:
        assert list(tool.lines()) == ["out"]
        finished = tool.finish()
    assert (finished.status, finished.error) == (7, "error")
    with started("nas", command, nothing, errors_too=True) as tool:
        assert sorted(tool.lines()) == ["error", "out"]
        assert tool.finish().error == ""


@pytest.mark.parametrize("program", ["exec sleep 1.4", "timeout 1.4 yes"], ids=["silent", "busy"])
def test_it_is_told_at_least_once_a_second_that_it_runs(program: str) -> None:
    moments = [time.monotonic()]
    with started("nas", script(program), lambda: moments.append(time.monotonic())) as tool:
        for _ in tool.blocks():
            pass
        tool.finish()
    assert len(moments) in (3, 4)


def test_what_a_tick_raises_ends_it_and_is_not_taken_for_an_error_of_the_destination(tmp_path: Path) -> None:
    tidied = tmp_path / "tidied"
    ask_first = script("trap 'touch \"$1\"; exit' INT; while :; do sleep 0.05; done", str(tidied))
    with pytest.raises(EnoughError), started("nas", ask_first, enough) as tool:
        list(tool.blocks())
    assert tidied.exists()


def test_one_that_does_not_end_when_it_is_asked_to_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_GRACE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(EnoughError), started("nas", script("trap '' INT; sleep 60"), enough) as tool:
        list(tool.blocks())
    assert time.monotonic() - began < 10


def test_one_that_says_nothing_for_too_long_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "SILENCE_SECONDS", 0.2)
    with pytest.raises(DestinationError) as raised, started("nas", script("sleep 60"), nothing) as tool:
        list(tool.blocks())
    assert raised.value.code == "destination-unreachable"
    assert raised.value.passing
    assert "docker" not in raised.value.hint


def test_one_that_is_not_installed_is_told(tmp_path: Path) -> None:
    command = Command((str(tmp_path / "tool"),))
    with pytest.raises(DestinationError, match="not installed") as raised, started("nas", command, nothing):
        pass
    assert raised.value.code == "destination-failed"


def test_a_generator_that_is_closed_early_ends_its_program() -> None:
    with started("nas", script("yes"), nothing) as tool:
        assert isinstance(tool, Watched)
        assert next(tool.blocks())


# What they say


@pytest.mark.parametrize(
    ("said", "code", "passing"),
    [
        ("NewFs: couldn't connect SSH: dial tcp 10.0.0.1:22: i/o timeout", "destination-unreachable", True),
        (
            "ssh: handshake failed: ssh: unable to authenticate, attempted methods [none]",
            "destination-denied",
            False,
        ),
        ("ssh: handshake failed: knownhosts: key mismatch", "destination-denied", False),
        ("AccessDenied: Access Denied status code: 403, request id: 1", "destination-denied", False),
        ("write /srv/x: no space left on device", "destination-full", False),
        ("googleapi: Error 403: The user's Drive storage quota has been exceeded", "destination-full", False),
        ("didn't find section in config file", "destination-missing", False),
        ("Fatal: wrong password or no key found", "destination-denied", False),
        ("unable to create lock in backend: repository is already locked by PID 1", "destination-failed", True),
        ("Fatal: unable to open config file: Head: EOF\nIs there a repository at", "destination-unreachable", True),
        ("Fatal: unable to open config file: stat /x: no such file or directory", "destination-missing", False),
        ("subprocess ssh: me@nas: Permission denied (publickey).", "destination-denied", False),
        ("HTTP error 503 (503 Service Unavailable)", "destination-unreachable", True),
        ("something new", "destination-failed", False),
        ("", "destination-failed", False),
    ],
)
def test_what_a_program_says_is_classed_by_what_can_be_done(said: str, code: str, passing: bool) -> None:
    error = meaning("nas", said)
    assert (error.code, error.passing) == (code, passing)
    assert "'nas'" in error.message
    assert error.hint


@pytest.mark.parametrize(
    "said",
    [
        "Head https://me:hunter2@nas/config: EOF",
        "pass=hunter2",
        '{"secret_access_key": "hunter2", "b": 1}',
        "AWS_SECRET_ACCESS_KEY='hunter2' is wrong",
        "https://nas/x?token=hunter2&b=1",
    ],
)
def test_secrets_are_taken_out_of_what_a_program_says(said: str) -> None:
    assert "hunter2" not in shown(said)
    assert "hunter2" not in str(meaning("nas", said))


def test_what_only_looks_like_a_secret_is_shown() -> None:
    said = "open /srv/keys: permission denied; knownhosts: key mismatch; user@nas"
    assert shown(said) == said


def test_only_the_last_words_are_kept_and_each_once() -> None:
    words = LastWords(lambda line: line.removeprefix("DEBUG"), "\n".join(str(number) for number in range(100)))
    words.hear("98")
    words.hear("DEBUG")
    assert str(words).startswith("80; 81;")
    assert str(words).endswith("99; 98")


# What they are given


def test_what_is_no_file_is_not_stored(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DestinationError, match=path.name):
            LocalFile.of("nas", path)

"""What runs the guide's commands finds every difference but those that are meant."""

from __future__ import annotations

import os

import pytest

from tests.harness.console import Action, Command, Console, steps

ONE = "backup-20260101-120000.sql.gz"
SHOW_OTHER = "echo backup-'20260202'-131313.sql.gz"
"""Shows the name of another one. No command may have a name that wasn't shown before, hence the quotes."""
PAGE = f"""
```sh
not run
```
<!-- test: prepare -->
```console
# list
#  NAME  SIZE
1  {ONE}  1 kB

# restore
To go on, type the name: {ONE}
```
"""


def console(**actions: object) -> Console:
    return Console(dict(os.environ), {name: lambda: None for name in actions})


def follow(line: str, *expected: str, into: Console | None = None) -> Console:
    into = into or console()
    into.follow(Command(line, expected))
    return into


def test_the_steps_of_a_page_are_its_console_blocks_and_actions() -> None:
    action, listed, restored = steps(PAGE)
    assert action == Action("prepare")
    assert listed == Command("list", ("#  NAME  SIZE", f"1  {ONE}  1 kB"))
    assert isinstance(restored, Command)
    assert restored.prompts == [("To go on, type the name: ", ONE)]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("a", ["a"]),
        ("a\nb\nc", ["a", "…"]),
        ("a\nb\nc", ["…", "c"]),
        ("a long line", ["a …"]),
        ("12.5 MB in 3 s, 2 min ago, 2026-01-01 10:00:00", ["1 kB in 0.5 s, just now, 2025-12-31 23:59:59"]),
        ("a    b", ["a b"]),
        ("a\n\n\nb", ["a", "", "b"]),
    ],
)
def test_what_is_meant_to_differ_may_differ(shown: str, expected: list[str]) -> None:
    follow(f"printf '%s\\n' '{shown}'", *expected)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("a", ["b"]),
        ("a\nb", ["a"]),
        ("a", ["a", "b"]),
        ("2 rows", ["3 rows"]),
        ("a\nb", ["…", "c"]),
        ("", ["a"]),
        ("a", []),
    ],
)
def test_anything_else_is_an_error(shown: str, expected: list[str]) -> None:
    with pytest.raises(AssertionError, match="should show"):
        follow(f"printf '%s\\n' '{shown}'", *expected)


def test_a_name_is_the_same_one_from_then_on() -> None:
    known = follow(SHOW_OTHER, ONE)
    follow(f"echo {ONE}", ONE, into=known)
    with pytest.raises(AssertionError, match="should show"):
        follow("echo backup-'20260303'-000000.sql.gz", ONE, into=known)


def test_a_name_that_was_not_shown_before_cannot_be_typed() -> None:
    with pytest.raises(AssertionError, match="hasn't shown"):
        follow(f"echo {ONE}", "…")


def test_what_is_asked_is_typed_at_a_terminal() -> None:
    ask = "read -p 'To go on, type the name: ' answer && echo you typed $answer"
    follow(ask, "To go on, type the name: sirius", "you typed sirius")

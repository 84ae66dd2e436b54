"""Settings are written into a file that a person wrote, and every other byte of it stays."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.errors import OperationFailed
from arcbackupd.setup.config_text import explicit, with_settings

EXAMPLE = (Path(__file__).parents[2] / "config.example.toml").read_text(encoding="utf-8")
PLAIN = st.text(st.characters(codec="utf-8"), max_size=20)


def changed_lines(old: str, new: str) -> list[str]:
    return [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]


def test_a_commented_out_default_gets_the_line_below_it() -> None:
    text = with_settings(EXAMPLE, {"install_dir": "/opt/dome", "engine.database": "db-1"})
    assert '#install_dir = "/srv/arcsecond"\ninstall_dir = "/opt/dome"\n' in text
    assert '#database = "arcsecond-db"\ndatabase = "db-1"\n' in text
    assert changed_lines(EXAMPLE, text) == ['+ install_dir = "/opt/dome"', '+ database = "db-1"']


def test_a_line_that_is_there_is_replaced_and_nothing_else() -> None:
    old = '# mine\ninstall_dir="/a" # there\n\n[engine]\n  database = "x"\n[retention]\nkeep_days = 3\n'
    new = with_settings(old, {"engine.database": "y"})
    assert new == old.replace('  database = "x"', 'database = "y"')


@pytest.mark.parametrize("old", ["", "# only a comment", "[retention]\nkeep_days = 3", "[engine]\n[retention]\n"])
def test_a_table_or_a_line_that_is_not_there_is_added(old: str) -> None:
    new = with_settings(old, {"install_dir": "/b", "engine.services": ("a", "b")})
    parsed = tomllib.loads(new)
    assert (parsed["install_dir"], parsed["engine"]["services"]) == ("/b", ["a", "b"])
    assert not [line for line in changed_lines(old, new) if line[0] == "-"]


def test_writing_the_same_again_changes_nothing() -> None:
    once = with_settings(EXAMPLE, {"install_dir": "/b", "engine.services": ("a",)})
    assert with_settings(once, {"install_dir": "/b", "engine.services": ("a",)}) == once


@given(PLAIN)
def test_any_text_comes_back_as_it_was(value: str) -> None:
    assert explicit(with_settings(EXAMPLE, {"install_dir": value}), "install_dir") == value


@pytest.mark.parametrize(
    "old",
    [
        'engine = { database = "x" }\n',
        'engine.database = "x"\n',
        '[engine]\nservices = [\n  "a",\n]\n',
        'install_dir = """\n[engine]\n"""\n',
    ],
)
def test_what_can_not_be_changed_line_by_line_is_left_to_the_operator(old: str) -> None:
    with pytest.raises(OperationFailed) as raised:
        with_settings(old, {"engine.database": "y", "engine.services": ("b",)})
    assert 'engine.database = "y"' in raised.value.hint


def test_a_default_is_nothing_that_somebody_wrote() -> None:
    assert explicit(EXAMPLE, "install_dir") is None
    assert explicit('[engine]\ndatabase = "x"\n', "engine.database") == "x"
    assert explicit('engine = "odd"\n', "engine.database") is None

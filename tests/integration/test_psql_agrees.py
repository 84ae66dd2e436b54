"""What the filter lets through, a real psql reads as it did: the same statements and rows, no command."""

from __future__ import annotations

import ast
import random
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from arcbackupd.dumps.lexer import Lexer
from tests.fuzz import pump, targets
from tests.fuzz.psql import Psql, Recorded, accepted, difference, variations
from tests.harness.agreeing_server import agreeing_server
from tests.harness.embedded import EmbeddedPostgresError, find_installation
from tests.require import require
from tests.unit.sample_dumps import dump

pytestmark = pytest.mark.postgres

MAJORS = (16, 18)
COMPARED = 150
"""Varied texts a major, beside the corpus."""


@pytest.fixture(name="psql", scope="module", params=MAJORS)
def _psql(request: pytest.FixtureRequest) -> Iterator[Psql]:
    try:
        installed = find_installation(request.param)
    except EmbeddedPostgresError as error:
        require("postgres", str(error))
    with tempfile.TemporaryDirectory(prefix="psql-") as name, agreeing_server(Path(name)) as server:
        yield Psql(installed.root / "bin" / "psql", server, Path(name))


def corpus() -> list[bytes]:
    """The texts of both targets that read dumps."""
    files = [path for name in ("scanner", "load") for path in sorted(targets.corpus(name).iterdir())]
    return list(dict.fromkeys(pump.pumped(path.read_bytes())[:3000] for path in files))


def words() -> list[bytes]:
    """What the fuzzer puts in."""
    lines = targets.words("load").read_text().splitlines()
    return [ast.literal_eval(f"b{line}") for line in lines if line.startswith('"') and r"\x01" not in line]


def let_through(text: bytes) -> Iterator[tuple[bytes, Recorded]]:
    """What goes to a new psql and to an old one, where it isn't refused. psql reads no line past a zero byte."""
    both = (accepted(text, restricted=restricted) for restricted in (True, False))
    return (one for one in both if one is not None and b"\0" not in one[0])


def test_what_is_let_through_is_read_by_psql_as_it_was_by_the_filter(psql: Psql) -> None:
    texts = corpus()
    varied = (text for text in variations(texts, words(), random.Random(7)) if any(let_through(text)))
    compared = 0
    for text in (*texts, *islice(varied, COMPARED)):
        for given, ours in let_through(text):
            compared += 1
            assert difference(psql, given, ours) is None, given
    assert compared > COMPARED + 20


def test_a_lexer_that_overlooks_the_escapes_of_a_string_is_told_apart(
    psql: Psql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lexer, "_escape_string", Lexer._string)
    overlooked = accepted(dump(b"SELECT E'\\'; \\! true\n';\n"), restricted=True)
    assert overlooked is None  # it takes the command for one outside the string
    monkeypatch.undo()
    monkeypatch.setattr(Lexer, "_string", Lexer._escape_string)
    overlooked = accepted(dump(b"SELECT '\\'; \\! true\n';\n"), restricted=True)
    assert overlooked
    assert difference(psql, *overlooked) == "psql would have run 1 commands"

"""docs/troubleshooting.md explains every error that an operator can meet, in its own words, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.harness.codes import DEMO, PACKAGE, codes

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^### (`.+)$", re.MULTILINE)
CODE = re.compile(r"`([a-z-]+)`")
MESSAGE = re.compile(r"^> (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def texts() -> set[str]:
    """Every text in the source, with … for what is put into it."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if DEMO not in path.parents:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {_text(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)}
    return found


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)  # type: ignore[misc]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def entries() -> dict[str, str]:
    """What the page says about each code."""
    parts = re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for part in parts:
        heading, _, text = part.partition("\n")
        if heading.startswith("`"):
            found |= {code: text.strip() for code in CODE.findall(heading)}
    return found


def test_every_code_of_an_error_is_explained_and_no_other() -> None:
    given = codes()
    missing = {code: places for code, places in given.items() if code not in entries()}
    assert not missing, "write about them in docs/troubleshooting.md"
    assert set(entries()) - set(given) == set(), "nothing raises these any more"


def test_no_code_is_explained_twice() -> None:
    named = [code for heading in HEADING.findall(PAGE) for code in CODE.findall(heading)]
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("code", entries())
def test_an_entry_says_more_than_its_message(code: str) -> None:
    text = entries()[code]
    assert MESSAGE.match(text), "begin with the words of the message"
    assert len(MESSAGE.sub("", text).split()) >= 8


@pytest.mark.parametrize("message", MESSAGE.findall(PAGE))
def test_a_message_is_quoted_as_the_source_has_it(texts: set[str], message: str) -> None:
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    assert pieces, "quote more of it"
    assert any(_has(text, pieces) for text in texts)


def _has(text: str, pieces: list[str]) -> bool:
    """Whether a text has these pieces, one after another."""
    for piece in pieces:
        _, found, text = text.partition(piece)
        if not found:
            return False
    return True

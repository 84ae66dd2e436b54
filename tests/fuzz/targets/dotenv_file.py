"""``.env``: its variables or DotenvError, which never shows a value; quoted values come out as they went in."""

from __future__ import annotations

import re

from arcbackupd.dotenv import DotenvError, parse_dotenv
from tests.fuzz.pump import pumped

SECRET = "Zq9-never-to-be-shown"
ENVIRONMENT = {"HOME": "/root", "PASSWORD": SECRET, "EMPTY": ""}
VALUES_LIMIT = 8 << 20
"""Characters that all values may have together: what a file of a megabyte could mean by itself, and more."""
_ERROR = re.compile(r"line \d+: [^\n]*")


def one(data: bytes) -> None:
    """Parse a file, then take its text as a value."""
    text = pumped(data).decode("utf-8", "surrogateescape")
    values = parsed(text)
    if values is not None:
        assert parse_dotenv(text, ENVIRONMENT) == values
    round_trips(text[:10_000])


def parsed(text: str) -> dict[str, str] | None:
    """The variables, ``None`` when the file is wrong; both as promised."""
    try:
        values = parse_dotenv(text, ENVIRONMENT)
    except DotenvError as error:
        told = str(error)
    else:
        assert sum(map(len, values.values())) <= VALUES_LIMIT
        assert all("\n" not in key and "=" not in key for key in values)
        return values
    assert _ERROR.fullmatch(told)
    assert SECRET not in told
    return None


def round_trips(value: str) -> None:
    """Any value can be written, in quotes of both kinds."""
    if "\\" not in value:
        single = value.replace("'", "\\'")
        assert parse_dotenv(f"A='{single}'\nB=1", {}) == {"A": value, "B": "1"}
        double = value.replace('"', '\\"').replace("$", "$$")
        assert parse_dotenv(f'A="{double}"\nB=1', {}) == {"A": value, "B": "1"}

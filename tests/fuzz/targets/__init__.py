"""One module a target, with ``one(data)``: whatever the bytes, it returns, and its assertions hold."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

NAMES = ("scanner", "load", "manifest", "gzip_members", "dotenv_file", "showmigrations", "control")
_HERE = Path(__file__).parents[1]


def target(name: str) -> Callable[[bytes], None]:
    """What takes an input of this target."""
    return cast("Callable[[bytes], None]", import_module(f"{__name__}.{name}").one)


def corpus(name: str) -> Path:
    """The directory of the inputs that are kept: seeds, and what widened the coverage or was a finding."""
    return _HERE / "corpus" / name


def words(name: str) -> Path:
    """The file of words that the fuzzer puts in."""
    return _HERE / "words" / f"{name}.dict"

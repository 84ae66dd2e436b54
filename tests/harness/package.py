"""The program as one file, and the Debian package of it, built as `make deb` builds them.

new = build_package(repository, directory)
old = build_package(repository, directory, version="0.0.1")
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.harness.process import run

SOURCES = (
    "arcbackupd",
    "scripts",
    "systemd",
    "config.example.toml",
    "constraints.txt",
    "pyproject.toml",
    "LICENSE",
    "docs",
)
DOCUMENTS = ("README.md", "CHANGELOG.md")


def build_package(repository: Path, into: Path, *, version: str | None = None) -> Path:
    """Build the package of a repository, or of what it would be at another version; return its path.

    The one file is beside it, as ``arcbackupd``.
    """
    into.mkdir(parents=True)
    source = repository if version is None else _at_version(repository, into / "source", version)
    one_file = build_one_file(source, into / "arcbackupd")
    programs = str(Path(sys.executable).parent)
    run([str(source / "scripts" / "deb" / "build"), str(one_file), programs, str(into)], timeout=300)
    return next(into.glob("*.deb"))


def build_one_file(source: Path, target: Path, *, arch: str | None = None) -> Path:
    """Build the program of a source tree as one file, for this machine or another kind; return its path."""
    options = ["--arch", arch] if arch else []
    run([sys.executable, str(source / "scripts" / "onefile" / "build.py"), str(target), *options], timeout=900)
    return target


def _at_version(repository: Path, target: Path, version: str) -> Path:
    target.mkdir()
    for name in (*SOURCES, *DOCUMENTS):
        if (repository / name).is_dir():
            shutil.copytree(repository / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(repository / name, target / name)
    init = target / "arcbackupd" / "__init__.py"
    text, count = re.subn(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text("utf-8"))
    assert count == 1, "the version isn't where it was"
    init.write_text(text, "utf-8")
    return target

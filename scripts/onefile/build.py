"""Build arcbackupd as one executable file for all supported Pythons.

    python scripts/onefile/build.py TARGET [--arch x86_64]

The file is a script, header.sh, with a zip archive behind it. In the archive are unpack.py, below any/ what all
Pythons take, and below cp311/ and so on what one of them does. Versions are those of constraints.txt, and the same
sources make the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
GLIBC = range(34, 16, -1)
"""Minors of glibc 2 that wheels may be built for, since pip must be told each. Debian 12, the oldest host that we
support, has 2.36."""

INSTALLERS_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""What pip writes about where it installs, and from where."""


def build(target: Path, arch: str) -> None:
    """Build the file. Raise SystemExit, and CalledProcessError, where something it needs can't be had."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _wheel(Path(scratch) / "wheel")
        trees = {}
        for python in PYTHONS:
            tree = trees[f"cp{python[0]}{python[1]}"] = Path(scratch) / f"cp{python[0]}{python[1]}"
            _install(wheel, tree, python, arch)
            _require_complete(tree, python, arch)
        content = {**_merged(trees), "__main__.py": (HERE / "unpack.py").read_bytes()}
    _write(target, content, _version(wheel))


def _wheel(directory: Path) -> Path:
    # Of its sources, wherever they came from: the sandbox that pip builds in leaves nothing of itself behind.
    _pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(REPOSITORY))
    return next(directory.glob("*.whl"))


def _install(wheel: Path, tree: Path, python: tuple[int, int], arch: str) -> None:
    """Install a wheel and all that it needs into a directory, for another Python than this one.

    Raise SystemExit where not all of it was built for that.
    """
    print(f"Gathering what Python {python[0]}.{python[1]} needs …", file=sys.stderr, flush=True)
    platforms = [part for glibc in GLIBC for part in ("--platform", f"manylinux_2_{glibc}_{arch}")]
    platforms += ["--platform", f"manylinux2014_{arch}"]
    version = ["--implementation", "cp", "--python-version", f"{python[0]}.{python[1]}"]
    constraints = ["--constraint", str(REPOSITORY / "constraints.txt")]
    options = ["--only-binary=:all:", "--no-compile", "--no-warn-conflicts", "--target", str(tree)]
    try:
        _pip("install", *options, *version, *platforms, *constraints, str(wheel))
    except subprocess.CalledProcessError:
        needed = f"wheels for Python {python[0]}.{python[1]} on {arch} with glibc 2.{GLIBC[0]} or older"
        raise SystemExit(f"pip doesn't get {needed}; what it says is above.") from None


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, timeout=900)


def _require_complete(tree: Path, python: tuple[int, int], arch: str) -> None:
    """Raise SystemExit for a requirement that isn't met: pip asks the Python that it runs in which there are."""
    version = f"{python[0]}.{python[1]}"
    target = {"python_version": version, "python_full_version": f"{version}.0", "platform_machine": arch}
    found = {canonicalize_name(one.name): one for one in distributions(path=[str(tree)])}
    for one in found.values():
        for text in one.requires or []:
            needed = Requirement(text)
            if needed.marker and not needed.marker.evaluate({**target, "extra": ""}):
                continue
            if not _fits(found.get(canonicalize_name(needed.name)), needed):
                raise SystemExit(f"For Python {version}, {one.name} needs {needed}, which isn't there.")


def _fits(found: Distribution | None, needed: Requirement) -> bool:
    return found is not None and needed.specifier.contains(found.version, prereleases=True)


def _merged(trees: dict[str, Path]) -> dict[str, bytes]:
    """The files of all trees by their place in the archive; what is the same in all of them is there once."""
    contents = {tag: dict(_files(tree)) for tag, tree in trees.items()}
    merged: dict[str, bytes] = {}
    for tag, files in contents.items():
        for name, content in files.items():
            same = all(other.get(name) == content for other in contents.values())
            merged[f"{'any' if same else tag}/{name}"] = content
    return merged


def _files(tree: Path) -> Iterator[tuple[str, bytes]]:
    for path in tree.rglob("*"):
        name = path.relative_to(tree)
        is_note = name.parts[0].endswith(".dist-info") and name.name in INSTALLERS_NOTES
        if path.is_file() and name.parts[0] != "bin" and not is_note:
            yield name.as_posix(), path.read_bytes()


def _write(target: Path, content: dict[str, bytes], version: str) -> None:
    header = (HERE / "header.sh").read_text(encoding="utf-8")
    digest = hashlib.sha256(header.encode())
    for name in sorted(content):
        digest.update(f"\0{name}\0{len(content[name])}\0".encode() + content[name])
    for key, value in {
        "VERSION": version,
        "DIGEST": f"{version}-{digest.hexdigest()[:16]}",
        "PYTHONS": " ".join(f"python{major}.{minor}" for major, minor in reversed(PYTHONS)),
        "VERSIONS": repr(PYTHONS),
    }.items():
        header = header.replace(f"@{key}@", value)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.new")
    fresh.write_bytes(header.encode() + _archive(content))
    fresh.chmod(0o755)
    fresh.rename(target)


def _archive(content: dict[str, bytes]) -> bytes:
    # A zip can't be older than 1980.
    moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "315619200")), UTC)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(content):
            member = zipfile.ZipInfo(name, moment.timetuple()[:6])
            member.external_attr = 0o644 << 16
            archive.writestr(member, content[name], zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description="Build arcbackupd as one executable file.")
    parser.add_argument("target", type=Path)
    parser.add_argument("--arch", default=os.uname().machine, help="of the hosts: x86_64, aarch64")
    asked = parser.parse_args()
    build(asked.target, asked.arch)
    print(f"{asked.target}: {asked.target.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()

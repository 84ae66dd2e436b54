"""Unpack the one file that this is in, for the Python that runs it: what its first line's script calls when needed.

    python3 -I FILE DIRECTORY

It makes a virtual environment at DIRECTORY, whose name is the digest of what is in it. It is there whole or not at
all, whoever else does the same at that moment and whenever the power fails.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

PLUGIN_DIRECTORIES = ("/usr/local/lib/arcbackupd/plugins", "/usr/lib/arcbackupd/plugins")
"""Where packages of third parties are found: by `pip install --target`, and by the system's packages."""

PROGRAMS = {"arcbackupd": "arcbackupd.__main__", "arcbackupctl": "arcbackupd.ctl.main"}
PROGRAM = "import sys\n\nfrom {module} import main\n\nsys.exit(main())\n"


class CannotUnpackError(Exception):
    """Why not, and what to do."""


def unpack(archive: Path, target: Path) -> None:
    """Make ``target`` from ``archive``, unless somebody else did. Raise CannotUnpackError, OSError."""
    _own_directory(target.parent)
    with _alone(target.parent):
        if os.access(target / "bin" / "python", os.X_OK):
            return
        _say(f"arcbackupd unpacks itself into {target}; this is done once.")
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)  # of one that was interrupted
        try:
            _make(archive, fresh, target)
            shutil.rmtree(target, ignore_errors=True)  # the Python that it was made for is gone
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        _remove_others(target)


def _make(archive: Path, fresh: Path, target: Path) -> None:
    site = fresh / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    _extract(archive, site)
    (site / "arcbackupd-plugins.pth").write_text("\n".join(PLUGIN_DIRECTORIES) + "\n", encoding="utf-8")
    _make_environment(fresh)
    # Here, because whoever else runs it can't write here; with the names of the files as they will be.
    compileall.compile_dir(site, quiet=2, stripdir=fresh, prependdir=target)
    _try_it(fresh)
    os.sync()


def _extract(archive: Path, site: Path) -> None:
    """Extract what every Python takes, and what this one does."""
    mine = f"cp{sys.version_info[0]}{sys.version_info[1]}/"
    with zipfile.ZipFile(archive) as zipped:
        for name in zipped.namelist():
            top, _, path = name.partition("/")
            if f"{top}/" in ("any/", mine):
                place = site / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(zipped.read(name))


def _make_environment(fresh: Path) -> None:
    """Turn a directory into a virtual environment, by the few files that PEP 405 asks for."""
    python = Path(sys.executable).resolve()
    version = ".".join(map(str, sys.version_info[:3]))
    settings = f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    (fresh / "pyvenv.cfg").write_text(settings, encoding="utf-8")
    (fresh / "bin").mkdir()
    # Not /usr/bin/python3, which may be another one tomorrow.
    (fresh / "bin" / "python").symlink_to(python)
    for name, module in PROGRAMS.items():
        (fresh / "bin" / name).write_text(PROGRAM.format(module=module), encoding="utf-8")


def _try_it(fresh: Path) -> None:
    """Raise CannotUnpackError when the program doesn't start from there."""
    command = [fresh / "bin" / "python", "-I", fresh / "bin" / "arcbackupd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        hint = f"It needs glibc 2.34 or newer, and no mount option noexec for {fresh.parent}."
        raise CannotUnpackError(f"What was unpacked doesn't start: {reason}\n  hint: {hint}")


# The place


def _own_directory(directory: Path) -> None:
    """Make a directory for nobody else to write to. Raise CannotUnpackError when somebody else may."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Who may write to the one above can put another in its place; a user's ~/.cache may be open to his own group.
    for place in (directory, directory.parent) if os.geteuid() == 0 else (directory,):
        found = place.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            hint = f"Make it yours alone: chown {os.geteuid()} {place} && chmod go-w {place}"
            raise CannotUnpackError(f"Others can write to {place}.\n  hint: {hint}")


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    with (directory / ".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_others(target: Path) -> None:
    """Remove what other versions unpacked here, but those that run: a daemon imports up to its last second."""
    running = b"\n".join(map(_command_line, Path("/proc").glob("[0-9]*")))
    for other in target.parent.iterdir():
        if other != target and (other / "pyvenv.cfg").exists() and os.fsencode(other) not in running:
            shutil.rmtree(other, ignore_errors=True)


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _hint(directory: Path) -> str:
    if os.geteuid() == 0:
        return f"{directory} must be writable, with 100 MB free."
    return "Run `arcbackupd --version` once as root, which unpacks it for everybody."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Unpack; return the exit status."""
    os.umask(0o022)
    target = Path(sys.argv[1])
    try:
        unpack(Path(sys.argv[0]), target)
    except CannotUnpackError as error:
        _say(f"arcbackupd: {error}")
    except OSError as error:
        _say(f"arcbackupd: It can't unpack itself into {target}: {error}")
        _say(f"  hint: {_hint(target.parent)}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

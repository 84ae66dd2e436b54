"""The images of the test stack, built here because no registry is needed for them.

    python -m tests.harness.images [docker|podman]      builds or loads them all

One root file system is made by mmdebstrap and shared by all images; each adds a thin layer.
A tag ends in a hash of its recipe: a changed recipe is a new image, an unchanged one is there.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.demo.wheels import EmbeddedPostgresError, Installation, find_installation
from tests.harness.engine import LABEL, Engine, EngineUnavailable, docker, podman, work_dir
from tests.harness.process import exclusive, run

SUITE = "bookworm"

PACKAGES = (
    "ca-certificates",
    "dbus",
    "docker.io",
    "postgresql-15",
    "procps",
    "python-is-python3",
    "python3",
    "python3-django",
    "python3-psycopg2",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)

LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    # PostgreSQL does without its just-in-time compiler, we without 150 MB
    "/usr/lib/x86_64-linux-gnu/libLLVM*",
    "/usr/lib/llvm-*",
    "/usr/lib/postgresql/15/lib/bitcode/*",
    "/usr/lib/postgresql/15/lib/llvmjit*",
    # of Docker, only the client
    "/usr/sbin/dockerd",
    "/usr/bin/containerd*",
    "/usr/bin/ctr",
    "/usr/sbin/runc",
    "/usr/bin/runc",
    "/usr/sbin/docker-proxy",
    "/usr/bin/docker-proxy",
)

MASKED = (
    "docker.service",
    "docker.socket",
    "containerd.service",
    "postgresql.service",
    "systemd-networkd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "console-getty.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OBSERVATORY = Path(__file__).parents[2] / "arcbackupd" / "demo" / "observatory"
"""The Django project that the backend's containers run."""

DEBIAN_MAJOR = 15
"""The major that Debian has; the others come out of wheels."""

MAJORS = (15, 16, 18)

POSTGRES_ENTRYPOINT = """\
#!/bin/bash
# Starts PostgreSQL as the official image does: initdb at first, then the server as PID 1.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    initdb --pgdata "$PGDATA" --username "$user" --pwfile <(printf '%s\\n' "$POSTGRES_PASSWORD") \\
        --auth scram-sha-256 --encoding UTF8 --locale C.UTF-8 --no-sync --no-instructions
    # Clients out of Debian look for the socket in the first directory, those out of wheels in /tmp.
    echo "unix_socket_directories = '/var/run/postgresql,/tmp'" >>"$PGDATA/postgresql.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \\"$database\\"" | postgres --single -j -D "$PGDATA" postgres >/dev/null
    fi
fi
exec "$@"
"""

BACKEND_COMMAND = "python manage.py migrate --noinput && exec python manage.py runserver --noreload 127.0.0.1:8000"


@dataclass(frozen=True)
class Recipe:
    """How one image is made: a layer put on the base image, and the image's settings."""

    name: str
    settings: tuple[str, ...]
    layer: Callable[[tarfile.TarFile], None]
    ingredients: str
    """Text that changes whenever the layer would."""

    @property
    def tag(self) -> str:
        """Return the image's full name, with the hash of everything that goes into it."""
        text = "\n".join((*self.settings, self.ingredients, base_tag()))
        separator = "-" if ":" in self.name else ":"
        return f"arcbackupd-test/{self.name}{separator}{_hash(text)}"


def postgres(engine: Engine, major: int) -> str:
    """Return an image of PostgreSQL `major`, made if need be, that acts as the official one.

    Unlike there a login through the Unix socket needs the password too. An official image
    that was pulled here before is taken as it is.
    """
    official = f"postgres:{major}"
    if _has(engine, official):
        return official
    return _ensure(engine, _postgres_recipe(major))


def backend(engine: Engine) -> str:
    """Return an image with Django, psycopg2 and the sample observatory at /app."""
    return _ensure(engine, _backend_recipe())


def systemd(engine: Engine) -> str:
    """Return an image that boots systemd, with Python, venv and a docker client."""
    return _ensure(engine, _systemd_recipe())


def all_recipes() -> list[Recipe]:
    """Return every image there is."""
    return [*(_postgres_recipe(major) for major in MAJORS), _backend_recipe(), _systemd_recipe()]


def base_tag() -> str:
    """Return the name of the root file system that all images share."""
    return f"arcbackupd-test/base:{_hash(repr((SUITE, PACKAGES, LEFT_OUT)))}"


# Recipes


def _postgres_recipe(major: int) -> Recipe:
    common = (
        "ENV PGDATA=/var/lib/postgresql/data",
        "ENV LANG=C.UTF-8",
        f"ENV PG_MAJOR={major}",
        'ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]',
        'CMD ["postgres"]',
    )
    if major == DEBIAN_MAJOR:
        path = f"ENV PATH=/usr/lib/postgresql/{major}/bin:{PATH}"
        return Recipe(f"postgres:{major}", (path, *common), _add_entrypoint, POSTGRES_ENTRYPOINT)
    try:
        installation = find_installation(major)
    except EmbeddedPostgresError as error:
        raise EngineUnavailable(f"no image of PostgreSQL {major} can be built: {error}") from error
    package = installation.root.parent.name
    path = f"ENV PATH=/usr/lib/postgresql/{package}/{installation.root.name}/bin:{PATH}"

    def layer(tar: tarfile.TarFile) -> None:
        _add_entrypoint(tar)
        _add_installation(tar, installation)

    ingredients = POSTGRES_ENTRYPOINT + installation.version
    return Recipe(f"postgres:{major}", (path, *common), layer, ingredients)


def _backend_recipe() -> Recipe:
    settings = (
        f"ENV PATH={PATH}",
        "ENV PYTHONDONTWRITEBYTECODE=1",
        "ENV PYTHONUNBUFFERED=1",
        "WORKDIR /app",
        f'CMD ["sh", "-c", "{BACKEND_COMMAND}"]',
    )
    files = project_files()
    text = "\n".join(f"{path.relative_to(OBSERVATORY)} {_hash(path.read_text())}" for path in files)

    def layer(tar: tarfile.TarFile) -> None:
        for path in files:
            _add(tar, f"app/{path.relative_to(OBSERVATORY)}", path.read_bytes(), 0o644)

    return Recipe("backend", settings, layer, text)


def _systemd_recipe() -> Recipe:
    settings = (f"ENV PATH={PATH}", "ENV container=docker", "ENV LANG=C.UTF-8", 'CMD ["/sbin/init"]')

    def layer(tar: tarfile.TarFile) -> None:
        for unit in MASKED:
            _add_link(tar, f"etc/systemd/system/{unit}", "/dev/null")
        # /run is empty at boot: the engine's socket gets its usual name there then.
        rule = b"L+ /run/docker.sock - - - - /srv/engine.sock\n"
        _add(tar, "etc/tmpfiles.d/engine-socket.conf", rule, 0o644)
        journal = b"[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n"
        _add(tar, "etc/systemd/journald.conf.d/test.conf", journal, 0o644)

    return Recipe("systemd", settings, layer, repr(MASKED))


def project_files() -> list[Path]:
    """Return the files of the sample observatory, sorted, without what Python left there."""
    files = (path for path in OBSERVATORY.rglob("*") if path.is_file())
    return sorted(path for path in files if "__pycache__" not in path.parts)


# Making them


def _ensure(engine: Engine, recipe: Recipe) -> str:
    """Return the recipe's tag after making sure that the engine has the image."""
    if not _has(engine, recipe.tag):
        with exclusive(work_dir() / f"images-{engine.kind}.lock"):
            if not _has(engine, recipe.tag):
                (_build if engine.kind == "docker" else _load)(engine, recipe)
    return recipe.tag


def _has(engine: Engine, tag: str) -> bool:
    return engine.run("image", "inspect", tag, check=False).returncode == 0


def _build(engine: Engine, recipe: Recipe) -> None:
    """Put the recipe's layer on the base image. (No builder: its kinds and versions differ.)"""
    if not _has(engine, base_tag()):
        _say("making the base image", lambda: _build_base(engine))
    _say(f"building {recipe.tag}", lambda: _commit(engine, recipe))


def _commit(engine: Engine, recipe: Recipe) -> None:
    name = f"arcbackupd-test-build-{uuid.uuid4().hex[:12]}"
    engine.run("create", *engine.limits(), "--label", LABEL, "--name", name, base_tag(), "true")
    try:
        with tempfile.TemporaryFile(dir=_scratch()) as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                recipe.layer(tar)
            file.seek(0)
            _copy_in(engine, name, file.fileno())
        changes = [part for setting in recipe.settings for part in ("--change", setting)]
        engine.run("commit", *changes, name, recipe.tag, timeout=300)
    finally:
        engine.run("rm", "-f", name)


def _copy_in(engine: Engine, container: str, tar: int) -> None:
    done = subprocess.run(
        engine.argv("cp", "-", f"{container}:/"),
        stdin=tar,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **engine.env},
    )
    if done.returncode != 0:
        raise EngineUnavailable(f"couldn't copy a layer into {container}: {done.stderr}")


def _build_base(engine: Engine) -> None:
    """Make the shared root file system by mmdebstrap and give it to the engine."""
    if shutil.which("mmdebstrap") is None:
        raise EngineUnavailable(
            "mmdebstrap is missing, which the test images are made with:"
            " apt-get install mmdebstrap debian-archive-keyring"
        )
    with tempfile.TemporaryDirectory(dir=_scratch()) as directory:
        root = Path(directory) / "root.tar"
        run(_mmdebstrap(root), timeout=1200)
        engine.run("import", "-c", f"ENV PATH={PATH}", str(root), base_tag(), timeout=600)


def _mmdebstrap(target: Path) -> list[str]:
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        # the cluster that Debian makes at installation: ours are made at first start
        '--customize-hook=rm -rf "$1"/var/lib/postgresql/* "$1"/etc/postgresql/*',
        '--customize-hook=truncate -s 0 "$1"/etc/machine-id',
        SUITE,
        str(target),
    ]


def _load(engine: Engine, recipe: Recipe) -> None:
    """Give podman an image, and all that share its base, by way of Docker, which builds them."""
    source = docker()
    for each in all_recipes():
        _ensure(source, each)
    tags = [each.tag for each in all_recipes() if each.tag == recipe.tag or not _has(engine, each.tag)]
    with tempfile.TemporaryDirectory(dir=_scratch()) as directory:
        archive = Path(directory) / "images.tar"
        _say("saving the images", lambda: source.run("save", "-o", str(archive), *tags, timeout=600))
        _say("loading them into podman", lambda: engine.run("load", "-i", str(archive), timeout=900))
    for tag in tags:
        # podman keeps what it loads under docker.io/…, and finds it by the short name
        if not _has(engine, tag):
            raise EngineUnavailable(f"podman loaded {tag}, but doesn't find it under this name")


def _add_entrypoint(tar: tarfile.TarFile) -> None:
    _add(tar, "usr/local/bin/docker-entrypoint.sh", POSTGRES_ENTRYPOINT.encode(), 0o755)


def _add_installation(tar: tarfile.TarFile, installation: Installation) -> None:
    """Add a wheel's server so that its parts find each other as they do in the wheel."""
    with tempfile.TemporaryDirectory(dir=_scratch()) as directory:
        installation.copy_to(Path(directory))
        tar.add(directory, arcname="usr/lib/postgresql", filter=_as_root)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    if member.isdir():
        member.mode = 0o755
    return member


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(time.time())
    tar.addfile(member, io.BytesIO(content))


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)


def _scratch() -> Path:
    directory = work_dir() / "scratch"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _say(what: str, work: Callable[[], object]) -> None:
    start = time.monotonic()
    print(f"{what} …", file=sys.stderr, flush=True)
    work()
    print(f"{what}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Make every image and print their names; return the exit status."""
    try:
        engine = podman() if "podman" in arguments else docker()
        for recipe in all_recipes():
            print(_ensure(engine, recipe))
    except EngineUnavailable as error:
        print(f"no images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

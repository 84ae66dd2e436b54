"""Where the observatory is installed, and which of the engine's containers are its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.dotenv import DotenvError, parse_dotenv
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.engine import Labelled

PROJECT_DIR = "com.docker.compose.project.working_dir"
_SERVICE = "com.docker.compose.service"
_USUAL = ("/srv/arcsecond", "/opt/arcsecond")
_COMPOSE_FILES = ("docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml")
_POSTGRES = re.compile(r"(^|[/-])(postgres|postgis|timescaledb)")


def is_install(directory: Path) -> bool:
    """Whether it holds a Compose file and an ``.env`` that names the shared data, as an observatory's does."""
    try:
        has_compose = any((directory / name).is_file() for name in _COMPOSE_FILES)
        text = (directory / ".env").read_text("utf-8", "surrogateescape") if has_compose else ""
        return bool(parse_dotenv(text, {}).get("SHARED_DATA_PATH"))
    except (OSError, DotenvError):
        return False


def candidates(containers: Iterable[Labelled], homes: Iterable[Path], here: Path) -> list[Path]:
    """Where an installation may be, likeliest first: what runs, the usual places, homes, the working directory."""
    below = (path for home in homes for path in [*sorted(home.glob("arcsecond*")), home])
    return list(dict.fromkeys([*running(containers), *map(Path, _USUAL), *below, here]))


def running(containers: Iterable[Labelled]) -> Iterator[Path]:
    """The directories of the projects that Compose made containers from."""
    return (Path(path) for container in containers if (path := container.labels.get(PROJECT_DIR)))


def installs(places: Iterable[Path], test: Callable[[Path], bool] = is_install) -> list[Path]:
    """Those that are one, each once, whatever links lead there."""
    found: dict[Path, Path] = {}
    for place in places:
        if test(place):
            found.setdefault(place.resolve(), place)
    return list(found.values())


def of_project(containers: Iterable[Labelled], directory: Path) -> list[Labelled]:
    """The containers that Compose made from the installation in that directory."""
    own = directory.resolve()
    return [
        one for one in containers if PROJECT_DIR in one.labels and Path(one.labels[PROJECT_DIR]).resolve() == own
    ]


def databases(project: Sequence[Labelled]) -> list[str]:
    """The containers that may be the database's: by the standard name, else by service or image."""
    standard = EngineSettings().database
    named = [one.name for one in project if standard in (one.name, one.labels.get(_SERVICE))]
    return named or [one.name for one in project if _POSTGRES.search(one.image)]


@dataclass(frozen=True)
class Names:
    """What the installation's containers are called."""

    backend: str
    services: tuple[str, ...]


def names(project: Sequence[Labelled]) -> Names:
    """The names of backend and services: the standard ones, but where Compose called a service's otherwise."""
    standard = EngineSettings()
    named = {one.labels.get(_SERVICE, one.name): one.name for one in project}
    return Names(
        backend=named.get(standard.backend, standard.backend),
        services=tuple(named.get(name, name) for name in standard.services),
    )

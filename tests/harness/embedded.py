"""A throwaway PostgreSQL without Docker, for integration tests: the very one of `arcbackupd demo`."""

from arcbackupd.demo.server import EmbeddedPostgres
from arcbackupd.demo.wheels import WHEELS, EmbeddedPostgresError, find_installation

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "available_majors", "find_installation"]


def available_majors() -> list[int]:
    """Return the majors whose wheels are installed here."""
    return [major for major in WHEELS if _installed(major)]


def _installed(major: int) -> bool:
    try:
        find_installation(major)
    except EmbeddedPostgresError:
        return False
    return True

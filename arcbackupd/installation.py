"""The installation that is backed up, as its ``.env`` tells it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from arcbackupd.dotenv import DotenvError, parse_dotenv
from arcbackupd.errors import OperationFailed


class Installation(BaseModel):
    """What the installation's ``.env`` says."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    shared_data_path: Path
    database: str
    user: str
    password: SecretStr
    world_readable: bool

    @property
    def backups_dir(self) -> Path:
        """Where the dumps are."""
        return self.shared_data_path / "db_backups"


def read_installation(install_dir: Path, *, with_password: bool = True) -> Installation:
    """Read ``.env`` now: operators rotate passwords. Raise OperationFailed when it can't be used.

    Looking at files needs no password: with ``with_password`` False it may be missing.
    """
    path = install_dir / ".env"
    values = _read_dotenv(path)
    shared = values.get("SHARED_DATA_PATH")
    if not shared:
        raise _env_error("shared-path-missing", f"SHARED_DATA_PATH missing from {path}")
    if with_password and not values.get("POSTGRES_PASSWORD"):
        raise _env_error("password-missing", "POSTGRES_PASSWORD missing from .env", f"Set it in {path}.")
    return Installation(
        shared_data_path=install_dir / shared,
        database=values.get("POSTGRES_DB") or "arcsecond_docker",
        user=values.get("POSTGRES_USER") or "arcsecond_docker",
        password=SecretStr(values.get("POSTGRES_PASSWORD", "")),
        world_readable=bool(path.stat().st_mode & stat.S_IROTH),
    )


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        return parse_dotenv(path.read_text("utf-8", "surrogateescape"), os.environ)
    except FileNotFoundError:
        hint = "Point install_dir at the directory that holds docker-compose.yml and .env."
        raise _env_error("env-missing", f"There is no {path}", hint) from None
    except DotenvError as error:
        hint = "Compose would refuse it too: `docker compose config` tells more."
        raise _env_error("env-invalid", f"{path}: {error}", hint) from None
    except OSError as error:
        raise _env_error("env-unreadable", f"{path}: {error.strerror}", "Let the daemon read it.") from None


def _env_error(
    code: str, message: str, hint: str = "Set it there, as Arcsecond's installer does."
) -> OperationFailed:
    return OperationFailed(code, message, hint=hint)

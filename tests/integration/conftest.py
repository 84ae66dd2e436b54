"""Servers of each major and stands on them, and an S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.demo.wheels import Installation as PostgresFiles
from arcbackupd.operations.restore import services
from arcbackupd.postgres import databases as sql
from tests.harness.embedded import EmbeddedPostgres
from tests.integration.stand import DEBIAN, Stand, filled


@pytest.fixture(name="server_of", scope="module")
def _server_of() -> Iterator[Callable[[int], EmbeddedPostgres]]:
    """Gives a server of a major, with prepared transactions and logical decoding; Debian's own for 15."""
    with ExitStack() as running:

        @cache
        def server(major: int) -> EmbeddedPostgres:
            made = EmbeddedPostgres(major, settings={"max_prepared_transactions": "5", "wal_level": "logical"})
            if major == 15:
                made._installation = PostgresFiles(15, "15", DEBIAN, DEBIAN / "no-libs")
            return running.enter_context(made)

        yield server


@pytest.fixture(name="make_stand")
def _make_stand(
    server_of: Callable[[int], EmbeddedPostgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Stand]]:
    monkeypatch.setattr(services, "_SETTLED_SECONDS", 0.0)  # the services here are files: what is started is up
    made: list[Stand] = []

    def make(major: int = 18, *, name: str = "", options: str = "", **settings: Any) -> Stand:
        server = server_of(major)
        database = name or f"obs_{os.urandom(3).hex()}"
        server.psql(f"CREATE DATABASE {sql.identifier(database)} TEMPLATE template0 {options}")
        home = tmp_path / f"home{len(made)}"
        home.mkdir()
        stand = Stand(server, home, database, **settings)
        made.append(stand)
        return stand

    yield make
    for stand in made:
        for name in (*stand.ours(), stand.database):
            stand.servers_databases().drop(name)


@pytest.fixture(name="stand")
def _stand(make_stand: Callable[..., Stand]) -> Stand:
    return filled(make_stand())

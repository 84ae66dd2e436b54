"""Hold a loaded database against what the backup says of itself: rows, migrations, constraints, indexes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import OperationFailed
from arcbackupd.operations.restore.loading import Loaded
from arcbackupd.postgres.databases import literal

_SHOWN = 3
_UNREADABLE = "\\x"
"""In a name that isn't text in its dump's encoding: how the dump has it can't be asked for."""

_SETTINGS = "SET client_encoding TO 'UTF8';\nSET search_path TO public;\n"

# What a table has that came with an extension is the extension's: a dump holds only what was added to it.
_ROWS = """
SELECT CASE WHEN c.oid IS NULL
    THEN pg_catalog.format('SELECT pg_catalog.json_build_array(''rows'', %L::text, NULL)', v.name)
    ELSE pg_catalog.format('SELECT pg_catalog.json_build_array(''rows'', %L::text, pg_catalog.count(*)) FROM %s%s',
                           v.name, CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, c.oid::pg_catalog.regclass)
    END
  FROM (VALUES {names}) AS v(name)
  LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(v.name)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)
\\gexec
"""
_MIGRATIONS = """
SELECT pg_catalog.json_build_array('migration', app || '.' || name) FROM public.django_migrations;
"""
# An inherited one is its parent's. PostgreSQL 18 has some that are not enforced, and so never valid.
_UNCHECKED = """
SELECT pg_catalog.json_build_array('unchecked', c.conname) FROM pg_catalog.pg_constraint c
 WHERE NOT c.convalidated AND c.conislocal AND c.conparentid = 0
   AND coalesce(pg_catalog.to_jsonb(c) ->> 'conenforced', 'true') = 'true' ORDER BY c.conname;
"""
# One of a partitioned table, which is no file, is as valid as where it comes from.
_INVALID = """
SELECT pg_catalog.json_build_array('invalid', c.relname) FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready) ORDER BY c.relname;
"""


@dataclass
class Found:
    """What the loaded database holds. ``rows`` has ``None`` for a table that isn't there."""

    rows: dict[str, int | None] = field(default_factory=dict)
    migrations: Counter[str] = field(default_factory=Counter)
    unchecked: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


def script(backup: Backup, last_word: str) -> bytes:
    """What psql is asked. It says ``last_word`` when it came to the end."""
    names = ", ".join(f"({literal(name)})" for name in comparable(backup.rows))
    parts = [
        _SETTINGS,
        _ROWS.format(names=names) if names else "",
        _MIGRATIONS if backup.migrations is not None else "",
        _UNCHECKED,
        _INVALID,
        f"SELECT pg_catalog.json_build_array('end', '{last_word}');\n",
    ]
    return "".join(parts).encode()


def comparable(rows: Mapping[str, int]) -> Iterable[str]:
    """The tables that can be asked for."""
    return (name for name in rows if _UNREADABLE not in name and "\0" not in name)


def read(answers: bytes, last_word: str) -> Found:
    """What psql answered. Raise OperationFailed when it isn't all."""
    found = Found()
    end = ""
    for line in answers.decode("utf-8", "replace").splitlines():
        if not line.startswith("["):
            continue
        what, *told = json.loads(line)
        match what:
            case "rows":
                found.rows[told[0]] = told[1]
            case "migration":
                found.migrations[told[0]] += 1
            case "unchecked":
                found.unchecked.append(told[0])
            case "invalid":
                found.invalid.append(told[0])
            case "end":
                end = told[0]
    if end != last_word:
        raise OperationFailed("comparison-cut", "psql ended before it had told all of what was loaded.")
    return found


def check(backup: Backup, found: Found, loaded: Loaded) -> None:
    """Raise OperationFailed for what isn't as the backup says."""
    for table in comparable(backup.rows):
        there, should = found.rows.get(table, backup.rows[table]), backup.rows[table]
        if there != should:
            said = "is not there" if there is None else f"has {there:,} rows, and should have {should:,}"
            raise _differs("rows-differ", backup, f"table {table} {said}")
    if backup.migrations is not None and found.migrations != Counter(backup.migrations):
        both = (found.migrations - Counter(backup.migrations)) | (Counter(backup.migrations) - found.migrations)
        raise _differs("migrations-differ", backup, f"other migrations are recorded: {_shown(sorted(both))}")
    if len(found.unchecked) > loaded.not_valid:
        raise _differs("constraints-invalid", backup, f"constraints are not valid: {_shown(found.unchecked)}")
    if found.invalid:
        raise _differs("indexes-invalid", backup, f"indexes are not valid: {_shown(found.invalid)}")


def _differs(code: str, backup: Backup, what: str) -> OperationFailed:
    hint = "The dump doesn't hold what it says it holds."
    return OperationFailed(code, f"{backup.name} was loaded, but {what}.", hint=hint)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

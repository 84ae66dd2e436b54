"""Databases of a server as values, and the SQL that makes, renames, closes and drops them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

MAINTENANCE = "template1"
"""Where we connect to work on other databases: every server has it, and `POSTGRES_DB` is never it."""

PROPERTIES = """
    SELECT row_to_json(p) FROM (
        SELECT d.*, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding_name,
               t.spcname AS tablespace, shobj_description(d.oid, 'pg_database') AS comment,
               (SELECT json_agg(json_build_object('grantee', CASE a.grantee WHEN 0 THEN NULL
                                                             ELSE pg_get_userbyid(a.grantee) END,
                                                  'privilege', a.privilege_type, 'grantable', a.is_grantable))
                  FROM aclexplode(d.datacl) a) AS privileges,
               (SELECT json_agg(json_build_object('role', r.rolname, 'values', s.setconfig) ORDER BY r.rolname)
                  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
                 WHERE s.setdatabase = d.oid) AS settings
          FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = {name}) p
"""
"""One row of one field, JSON for `Properties`; none when there is no such database."""

INVALID = -2
"""``datconnlimit`` of a database whose DROP was interrupted: it can't be used, nor altered, only dropped."""

_LISTS = frozenset({
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
})  # fmt: skip
"""Settings whose value is a list of names, each quoted by itself (GUC_LIST_QUOTE in src/backend/utils/misc)."""
_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(?:,|\Z)')
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


class Privilege(BaseModel):
    """A privilege on a database; a ``grantee`` of ``None`` is PUBLIC."""

    model_config = ConfigDict(frozen=True)

    grantee: str | None
    privilege: str
    grantable: bool


class RoleSettings(BaseModel):
    """``ALTER DATABASE … SET``, or ``ALTER ROLE … IN DATABASE … SET``; ``values`` are ``name=value``."""

    model_config = ConfigDict(frozen=True)

    role: str | None
    values: tuple[str, ...]


class Properties(BaseModel):
    """What a database is besides its content. Columns that only some majors have are ``None`` elsewhere.

    ``privileges`` is ``None`` where none was ever granted or revoked: the server's defaults hold.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    oid: int
    datname: str
    owner: str
    encoding_name: str
    datcollate: str
    datctype: str
    datlocprovider: str | None = None
    daticulocale: str | None = None
    datlocale: str | None = None
    daticurules: str | None = None
    tablespace: str
    datconnlimit: int
    datistemplate: bool
    datallowconn: bool
    comment: str | None = None
    privileges: tuple[Privilege, ...] | None = None
    settings: tuple[RoleSettings, ...] | None = None


def identifier(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL has it, whatever ``standard_conforming_strings`` is."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def create(name: str, like: Properties) -> str:
    """A new database of the same owner, encoding, locale and tablespace, from template0."""
    options = [
        "TEMPLATE template0",
        f"OWNER {identifier(like.owner)}",
        f"ENCODING {literal(like.encoding_name)}",
        f"LC_COLLATE {literal(like.datcollate)}",
        f"LC_CTYPE {literal(like.datctype)}",
        *_locale(like),
        f"TABLESPACE {identifier(like.tablespace)}",
    ]
    return f"CREATE DATABASE {identifier(name)} WITH {' '.join(options)}"


def create_default(name: str, owner: str) -> str:
    """A new database where there is none to be like."""
    return f"CREATE DATABASE {identifier(name)} WITH TEMPLATE template0 OWNER {identifier(owner)} ENCODING 'UTF8'"


def _locale(like: Properties) -> Iterator[str]:
    if like.datlocprovider is None:
        return
    yield f"LOCALE_PROVIDER {_PROVIDERS[like.datlocprovider]}"
    locale = like.datlocale or like.daticulocale
    if locale is not None and like.datlocprovider != "c":
        yield f"{'BUILTIN' if like.datlocprovider == 'b' else 'ICU'}_LOCALE {literal(locale)}"
    if like.daticurules is not None:
        yield f"ICU_RULES {literal(like.daticurules)}"


def carry(live: Properties, incoming: Properties) -> list[str]:
    """Statements that give ``incoming`` what can be changed of a database, as ``live`` has it."""
    name = identifier(incoming.datname)
    return [
        f"ALTER DATABASE {name} OWNER TO {identifier(live.owner)}",
        f"ALTER DATABASE {name} CONNECTION LIMIT {max(live.datconnlimit, -1)}",
        f"ALTER DATABASE {name} IS_TEMPLATE {live.datistemplate}",
        f"COMMENT ON DATABASE {name} IS {'NULL' if live.comment is None else literal(live.comment)}",
        *_carry_settings(live, incoming),
        *_carry_privileges(live, incoming),
    ]


def _carry_settings(live: Properties, incoming: Properties) -> Iterator[str]:
    for settings in incoming.settings or ():
        yield f"{_scope(settings, incoming)} RESET ALL"
    for settings in live.settings or ():
        for entry in settings.values:
            name, _, value = entry.partition("=")
            yield f"{_scope(settings, incoming)} SET {setting(name)} TO {setting_value(name, value)}"


def _scope(settings: RoleSettings, database: Properties) -> str:
    name = identifier(database.datname)
    if settings.role is None:
        return f"ALTER DATABASE {name}"
    return f"ALTER ROLE {identifier(settings.role)} IN DATABASE {name}"


def setting(name: str) -> str:
    """The name of a setting as SQL has it; that of an extension's has a dot in it, outside the quotes."""
    return ".".join(map(identifier, name.split(".")))


def setting_value(name: str, value: str) -> str:
    """A stored value as ``SET`` takes it: lists of names item by item, as pg_dumpall writes them."""
    if name.lower() not in _LISTS:
        return literal(value)
    return ", ".join(map(literal, _items(value))) or "''"


def _items(value: str) -> Iterator[str]:
    position = 0
    while position < len(value) and (match := _LIST_ITEM.match(value, position)):
        quoted, plain = match.groups()
        yield plain.strip() if quoted is None else quoted.replace('""', '"')
        position = max(match.end(), position + 1)


def _carry_privileges(live: Properties, incoming: Properties) -> Iterator[str]:
    if live.privileges is None and incoming.privileges is None:
        return
    name = identifier(incoming.datname)
    had = {_grantee(p.grantee) for p in incoming.privileges or ()}
    for grantee in sorted(had | {"PUBLIC", identifier(incoming.owner), identifier(live.owner)}):
        yield f"REVOKE ALL ON DATABASE {name} FROM {grantee} CASCADE"
    for privilege in _defaults(live) if live.privileges is None else live.privileges:
        option = " WITH GRANT OPTION" if privilege.grantable else ""
        yield f"GRANT {privilege.privilege} ON DATABASE {name} TO {_grantee(privilege.grantee)}{option}"


def _defaults(database: Properties) -> list[Privilege]:
    """What a new database grants (acldefault in src/backend/utils/adt/acl.c)."""
    own = [(database.owner, privilege) for privilege in ("CREATE", "TEMPORARY", "CONNECT")]
    return [Privilege(grantee=grantee, privilege=privilege, grantable=False)
            for grantee, privilege in [*own, (None, "TEMPORARY"), (None, "CONNECT")]]  # fmt: skip


def _grantee(role: str | None) -> str:
    return "PUBLIC" if role is None else identifier(role)


def allow_connections(name: str, allowed: bool) -> str:
    """Open a database to connections, or close it to all, superusers included; open ones stay."""
    return f"ALTER DATABASE {identifier(name)} WITH ALLOW_CONNECTIONS {str(allowed).lower()}"


def rename(name: str, new: str) -> str:
    """Fails after five seconds while somebody is connected to it."""
    return f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(new)}"


def drop(name: str) -> str:
    """Also when somebody is connected to it."""
    return f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)"


def end_sessions(names: Iterable[str]) -> str:
    """Ends all other sessions of these databases; one row: how many there were."""
    among = ", ".join(map(literal, names))
    return (
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE pid <> pg_backend_pid() AND datname IN ({among})"
    )


def end_application(name: str) -> str:
    """Ends the sessions of one application name; one row: how many there were."""
    return (
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE pid <> pg_backend_pid() AND application_name = {literal(name)}"
    )


def create_role(name: str) -> str:
    """A role that can own and be granted, and not log in."""
    return f"CREATE ROLE {identifier(name)} NOLOGIN"


def identity(name: str) -> str:
    """The oid of a database, which renaming it doesn't change."""
    return f"SELECT oid FROM pg_database WHERE datname = {literal(name)}"


def invalid(name: str) -> str:
    """A row when a database is only what a DROP that was interrupted left of it."""
    return f"SELECT oid FROM pg_database WHERE datname = {literal(name)} AND datconnlimit = {INVALID}"


def size(name: str) -> str:
    """The bytes of a database."""
    return f"SELECT pg_database_size({literal(name)})"


def names_like(prefix: str) -> str:
    """The names of all databases that begin so, the newest first."""
    return f"SELECT datname FROM pg_database WHERE starts_with(datname, {literal(prefix)}) ORDER BY oid DESC"


def missing_roles(names: Iterable[str]) -> str:
    """Those of the names that no role has."""
    wanted = ", ".join(f"({literal(name)})" for name in names)
    return f"SELECT n FROM (VALUES {wanted}) AS v(n) WHERE n NOT IN (SELECT rolname FROM pg_roles) ORDER BY n"


def prepared_transactions(database: str) -> str:
    """Names of prepared transactions, which keep a database from being renamed or dropped."""
    return f"SELECT gid FROM pg_prepared_xacts WHERE database = {literal(database)} ORDER BY gid"


def replication(database: str) -> str:
    """What keeps a database from being dropped: its subscriptions and active logical slots, in words."""
    name = literal(database)
    return f"""
        SELECT 'the subscription ' || subname FROM pg_subscription s
          JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = {name}
        UNION ALL
        SELECT 'the active replication slot ' || slot_name FROM pg_replication_slots
         WHERE database = {name} AND active ORDER BY 1
    """


def written(database: str, *, statistics_are_exact: bool) -> str:
    """What is the same twice when nothing was written in between.

    Rows of the database that were written; before there were exact statistics, the first transaction id of the
    whole server that is not given out yet.
    """
    if not statistics_are_exact:
        return "SELECT pg_snapshot_xmax(pg_current_snapshot())"
    return (
        "SELECT tup_inserted || ' ' || tup_updated || ' ' || tup_deleted FROM pg_stat_database"
        f" WHERE datname = {literal(database)}"
    )


DATA_DIRECTORY = "SELECT current_setting('data_directory')"

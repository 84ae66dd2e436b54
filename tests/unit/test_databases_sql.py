"""The SQL that makes, changes and swaps databases: names and values stay names and values, whatever is in them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.postgres import databases as sql
from arcbackupd.postgres.databases import Privilege, Properties, RoleSettings

names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)


def properties(**changes: object) -> Properties:
    fields: dict[str, object] = {
        "oid": 5,
        "datname": "live",
        "owner": "me",
        "encoding_name": "UTF8",
        "datcollate": "C",
        "datctype": "C.UTF-8",
        "tablespace": "pg_default",
        "datconnlimit": -1,
        "datistemplate": False,
        "datallowconn": True,
    }
    return Properties.model_validate({**fields, **changes})


STAGING = properties(oid=6, datname="staging")


def unquoted(text: str) -> str:
    """A literal read as the server reads it."""
    escaping = text.startswith(" E'")
    assert text.endswith("'")
    body = text.removeprefix(" E")[1:-1]
    pattern = re.compile(r"''|\\(.)|(')", re.DOTALL) if escaping else re.compile(r"''|(\\)(?!)|(')")
    assert not any(found[2] for found in pattern.finditer(body)), "the literal ends early"
    return pattern.sub(lambda found: found[1] or "'", body)


@given(names)
def test_a_literal_is_read_as_the_text_that_it_was(text: str) -> None:
    assert unquoted(sql.literal(text)) == text


@given(names)
def test_an_identifier_has_no_single_quote_of_its_kind_inside(name: str) -> None:
    quoted = sql.identifier(name)
    assert (quoted[0], quoted[-1], quoted[1:-1].replace('""', '"')) == ('"', '"', name)
    assert '"' not in quoted[1:-1].replace('""', "")


def test_a_text_with_a_backslash_is_an_escape_string_apart_from_the_word_before() -> None:
    assert sql.literal("a\\'b") == " E'a\\\\''b'"
    assert sql.literal("a'b") == "'a''b'"


# Settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("work_mem", "64MB", "'64MB'"),
        ("app.note", "a, b", "'a, b'"),
        ("search_path", "public", "'public'"),
        ("search_path", '"$user", public', "'$user', 'public'"),
        ("Search_Path", '"A b", "q""x"', "'A b', 'q\"x'"),
        ("search_path", '"a,b",c', "'a,b', 'c'"),
        ("search_path", "", "''"),
        ("search_path", '""', "''"),
        ("temp_tablespaces", '"it\'s"', "'it''s'"),
        ("session_preload_libraries", '"$libdir/x", y', "'$libdir/x', 'y'"),
        ("timezone", "Europe/Paris", "'Europe/Paris'"),
    ],
)
def test_a_stored_setting_is_set_as_it_was_lists_item_by_item(name: str, value: str, expected: str) -> None:
    assert sql.setting_value(name, value) == expected


def listed(items: list[str]) -> str:
    """A list of names as the server stores it."""
    return ", ".join(item if re.fullmatch("[a-z_]+", item) else sql.identifier(item) for item in items)


@given(st.lists(names, min_size=1, max_size=5))
def test_every_list_of_names_comes_back_item_by_item(items: list[str]) -> None:
    assert sql.setting_value("search_path", listed(items)) == ", ".join(map(sql.literal, items))


@given(st.text(max_size=40))
def test_no_stored_value_makes_it_fail_or_loop(value: str) -> None:
    sql.setting_value("search_path", value)


def test_the_dot_in_an_extension_s_setting_stands_outside_the_quotes() -> None:
    assert (sql.setting("work_mem"), sql.setting("app.tenant")) == ('"work_mem"', '"app"."tenant"')


# Creating


@pytest.mark.parametrize(
    ("columns", "clauses"),
    [
        ({}, ""),
        ({"datlocprovider": "c"}, "LOCALE_PROVIDER libc "),
        ({"datlocprovider": "c", "datlocale": "x"}, "LOCALE_PROVIDER libc "),
        ({"datlocprovider": "i", "daticulocale": "de"}, "LOCALE_PROVIDER icu ICU_LOCALE 'de' "),
        (
            {"datlocprovider": "i", "daticulocale": "de", "daticurules": "&a < g"},
            "LOCALE_PROVIDER icu ICU_LOCALE 'de' ICU_RULES '&a < g' ",
        ),
        ({"datlocprovider": "i", "datlocale": "und-x"}, "LOCALE_PROVIDER icu ICU_LOCALE 'und-x' "),
        ({"datlocprovider": "b", "datlocale": "C.UTF-8"}, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' "),
    ],
)
def test_a_database_is_created_with_the_locale_that_each_major_knows(columns: dict[str, str], clauses: str) -> None:
    assert sql.create("new", properties(**columns)) == (
        'CREATE DATABASE "new" WITH TEMPLATE template0 OWNER "me" ENCODING \'UTF8\' '
        f"LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' {clauses}TABLESPACE \"pg_default\""
    )


def test_columns_of_other_majors_are_ignored_and_numbers_are_no_texts() -> None:
    row = properties().model_dump() | {"datfrozenxid": "3", "dattablespace": 1663, "datlastsysoid": None}
    assert Properties.model_validate(json.loads(json.dumps(row))) == properties()


# Carrying over


def test_what_has_no_settings_and_no_privileges_gets_owner_limit_template_and_comment() -> None:
    live = properties(owner="o", datconnlimit=7, comment="it's")
    assert sql.carry(live, STAGING) == [
        'ALTER DATABASE "staging" OWNER TO "o"',
        'ALTER DATABASE "staging" CONNECTION LIMIT 7',
        'ALTER DATABASE "staging" IS_TEMPLATE False',
        "COMMENT ON DATABASE \"staging\" IS 'it''s'",
    ]


def test_a_comment_that_was_taken_off_is_taken_off_the_incoming_one_too() -> None:
    assert 'COMMENT ON DATABASE "staging" IS NULL' in sql.carry(properties(), STAGING)


def test_a_database_marked_invalid_by_its_limit_gives_none() -> None:
    assert 'ALTER DATABASE "staging" CONNECTION LIMIT -1' in sql.carry(properties(datconnlimit=-2), STAGING)


def test_settings_of_the_incoming_one_are_reset_before_those_of_the_live_one_are_set() -> None:
    live = properties(
        settings=(
            RoleSettings(role=None, values=("search_path=a, b", "app.x=1=2")),
            RoleSettings(role="r", values=("work_mem=1MB",)),
        )
    )
    incoming = properties(datname="staging", settings=(RoleSettings(role="gone", values=("work_mem=9MB",)),))
    assert sql.carry(live, incoming)[4:] == [
        'ALTER ROLE "gone" IN DATABASE "staging" RESET ALL',
        "ALTER DATABASE \"staging\" SET \"search_path\" TO 'a', 'b'",
        'ALTER DATABASE "staging" SET "app"."x" TO \'1=2\'',
        'ALTER ROLE "r" IN DATABASE "staging" SET "work_mem" TO \'1MB\'',
    ]


def test_all_privileges_are_revoked_before_those_of_the_live_one_are_granted() -> None:
    live = properties(
        privileges=(
            Privilege(grantee="me", privilege="CONNECT", grantable=False),
            Privilege(grantee="a b", privilege="CREATE", grantable=True),
        )
    )
    incoming = properties(
        datname="staging", owner="other", privileges=(Privilege(grantee="x", privilege="CONNECT", grantable=False),)
    )
    assert sql.carry(live, incoming)[4:] == [
        'REVOKE ALL ON DATABASE "staging" FROM "me" CASCADE',
        'REVOKE ALL ON DATABASE "staging" FROM "other" CASCADE',
        'REVOKE ALL ON DATABASE "staging" FROM "x" CASCADE',
        'REVOKE ALL ON DATABASE "staging" FROM PUBLIC CASCADE',
        'GRANT CONNECT ON DATABASE "staging" TO "me"',
        'GRANT CREATE ON DATABASE "staging" TO "a b" WITH GRANT OPTION',
    ]


def test_privileges_that_were_revoked_from_all_stay_revoked() -> None:
    granted = [text for text in sql.carry(properties(privileges=()), STAGING) if text.startswith("GRANT")]
    assert granted == []


def test_default_privileges_come_back_where_the_incoming_one_has_others() -> None:
    incoming = properties(datname="staging", privileges=())
    granted = [text for text in sql.carry(properties(), incoming) if text.startswith("GRANT")]
    assert [text.replace(' ON DATABASE "staging"', "") for text in granted] == [
        'GRANT CREATE TO "me"',
        'GRANT TEMPORARY TO "me"',
        'GRANT CONNECT TO "me"',
        "GRANT TEMPORARY TO PUBLIC",
        "GRANT CONNECT TO PUBLIC",
    ]


def test_a_role_named_public_is_no_public() -> None:
    live = properties(privileges=(Privilege(grantee="PUBLIC", privilege="CONNECT", grantable=False),))
    assert 'GRANT CONNECT ON DATABASE "staging" TO "PUBLIC"' in sql.carry(live, STAGING)


# The rest

EVIL = "x'; DROP DATABASE y; --\\\""


@pytest.mark.parametrize(
    "statement",
    [
        sql.rename(EVIL, EVIL),
        sql.drop(EVIL),
        sql.allow_connections(EVIL, True),
        sql.create_default(EVIL, EVIL),
        sql.create(EVIL, properties(owner=EVIL, comment=EVIL)),
        sql.end_sessions([EVIL, EVIL]),
        sql.end_application(EVIL),
        sql.create_role(EVIL),
        sql.identity(EVIL),
        sql.size(EVIL),
        sql.names_like(EVIL),
        sql.missing_roles([EVIL, EVIL]),
        sql.prepared_transactions(EVIL),
        sql.replication(EVIL),
        sql.PROPERTIES.format(name=sql.literal(EVIL)),
        *sql.carry(
            properties(
                comment=EVIL,
                owner=EVIL,
                privileges=(Privilege(grantee=EVIL, privilege="CONNECT", grantable=True),),
                settings=(RoleSettings(role=EVIL, values=(f"a.b={EVIL}", f"search_path={EVIL}")),),
            ),
            properties(datname=EVIL),
        ),
    ],
)
def test_no_name_gets_out_of_its_quotes(statement: str) -> None:
    inside = re.compile(r"""E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL)
    outside = inside.sub("", statement)
    assert not set(outside) & set("'\"\\;")
    assert "DROP DATABASE y" not in outside


def test_ending_sessions_and_a_query_for_roles_name_all_of_them() -> None:
    assert sql.end_sessions(["a", "b"]).endswith("datname IN ('a', 'b')")
    assert "VALUES ('a'), ('b')" in sql.missing_roles(["a", "b"])

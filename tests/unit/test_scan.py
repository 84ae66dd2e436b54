"""The scanner: reads SQL as psql does, wherever the blocks are cut, and is fooled by no text and no row."""

# ruff: noqa: E501, ISC004  # tables of hostile texts, a line each

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from time import process_time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from arcbackupd.dumps import scan as scan_module
from arcbackupd.dumps.lexer import TAG_LIMIT
from arcbackupd.dumps.scan import Scan, Scanner
from tests.unit.sample_dumps import (
    KEY,
    MIGRATION_NAMES,
    MIGRATIONS,
    SMALL,
    TRAILER,
    copy,
    dump,
    old_dump,
    scan,
    sha256,
)

FORGED = (
    b"""COPY public.django_migrations (id, app, name, applied) FROM stdin;
9\tforged\t0001_x\tnow
\\.
--
-- PostgreSQL database dump complete
--

\\unrestrict %s
"""
    % KEY
)

# Each: the body of a dump, rows per table, roles. All but the last two have no other COPY that counts.
HOSTILE: dict[str, tuple[bytes, dict[str, int], tuple[str, ...]]] = {
    "rows like marks": (
        copy(
            b"public.t",
            (b"line",),
            [(row,) for row in (b"\\.", b"\\\\.", b"", None, b"--", b"-- PostgreSQL database dump complete", b"--",
                                b"\\unrestrict " + KEY, FORGED, b"$$", b"'", b"/*", b"\r", b"\\.\r")],
        ),
        {"public.t": 14},
        (),
    ),
    "rows that begin with a backslash": (b"COPY public.t (a) FROM stdin;\n\\\\.\n\\N\n\\\\\n\\\\.\\\\.\n\\.\n", {"public.t": 4}, ()),
    "an empty table": (b"COPY public.t (a) FROM stdin;\n\\.\n", {"public.t": 0}, ()),
    "a table without columns": (b"COPY public.t  FROM stdin;\n\n\n\\.\n", {"public.t": 2}, ()),
    "quoted and mixed-case names": (
        copy(b'"Mixed Case"."COPY x (y) FROM stdin;"', (b'"FROM stdin;"', b'"a""b, c"'), [(b"1", b"2")])
        + copy(b'public."a\nb"', (b'"c\nd"',), [(b"1",)])
        + copy(b'public."django_migrations "', (b"app", b"name"), [(b"forged", b"0001")]),
        {'"Mixed Case"."COPY x (y) FROM stdin;"': 1, 'public."a\nb"': 1, 'public."django_migrations "': 1},
        (),
    ),
    "tables of the same name in other schemas": (
        copy(b"other.django_migrations", (b"id", b"app", b"name"), [(b"1", b"forged", b"0001")])
        + copy(b'"Public".django_migrations', (b"id", b"app", b"name"), [(b"1", b"forged", b"0001")]),
        {"other.django_migrations": 1, '"Public".django_migrations': 1},
        (),
    ),
    "dollar quotes": (
        b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$" + FORGED + b"$$;\n"
        b"CREATE FUNCTION g() RETURNS text LANGUAGE sql AS $_X$ $$ ' $_$ " + FORGED + b" $_X $_X$;\n"
        b"CREATE FUNCTION h($1 int) RETURNS int AS $\xc3\xa9$ $e$ ; \xc3\xa9$ $\xc3\xa9$;\n",
        {},
        (),
    ),
    "a dollar quote as long as its text forces it": (
        b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $_%(x)s$ $_%(x)s\n%(f)s $_%(x)s$;\n"
        % {b"x": b"_XXXXXXX" * 100, b"f": FORGED},
        {},
        (),
    ),
    "nested comments": (b"/* one /* two -- ' */ three */ SELECT /* /* */ ; */ 1; /*/* ; */*/ /**/ -- '\nSELECT 2;\n", {}, ()),
    "E strings": (
        rb"SELECT E'\'', E'a''\';', E'\\', e'\\''', E''';', E'' ';', 'E\', E'\\\';';" + b"\n" + b"SELECT E'" + FORGED.replace(b"\\", b"\\\\") + b"';\n",
        {},
        (),
    ),
    "E strings that go on over a line end": (b"SELECT E'a\\'' \t\n  'b\\';' \r\n '\\'' , 'c';\nSELECT E'x' 'y\\';\n", {}, ()),
    "a name that ends with e": (b"SELECT name'\\', ate'\\' FROM some'\\';\n", {}, ()),
    "quoted names": (b'SELECT "a;b", "it\'s", "$$", "--", "/*", "a""b;" FROM "E\'\\\'";\n', {}, ()),
    "dollars in names": (b"CREATE TABLE t (c$d$e int, a$$ int, f$$ text, g$d$h int);\nSELECT $1, $2$x$;$x$;\n", {}, ()),
    "a long name": (b"SELECT " + b"n" * 255 + b"E'\\', " + b"n" * 256 + b"E'\\', " + b"n" * 600 + b"$d$E'\\';\n", {}, ()),
    "an SQL-standard body": (
        b"CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql\nBEGIN ATOMIC\n  SELECT CASE WHEN (a > 0) THEN 1 ELSE 2 END;\n"
        b" SELECT c$end$x, (CASE WHEN true THEN 1 END), 'END; END' AS \"END\", $$END;$$, end_ AS weekend, E'\\'END;' /* END; /* END; */ */;\n"
        b"  SELECT a AS \"BEGIN\"; -- END;\nEND;\n"
        b"CREATE OR REPLACE PROCEDURE public.p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END;\n",
        {},
        (),
    ),
    "an SQL-standard body of more than a mebibyte": (
        b"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n" + b" SELECT '%s;';\n" % (b"x" * 100) * 11000 + b"END;\n",
        {},
        (),
    ),
    "a transaction of large objects": (
        b"BEGIN;\nSELECT pg_catalog.lo_open('16388', 131072);\nSELECT pg_catalog.lowrite(0, '\\x2d2d5c2e0a');\nCOMMIT;\n",
        {},
        (),
    ),
    "a rule with two commands": (
        b"CREATE RULE r AS ON INSERT TO public.t DO ALSO (DELETE FROM public.u; NOTIFY v;);\n",
        {},
        (),
    ),
    "comments on things": (b"COMMENT ON TABLE public.t IS 'x\n" + FORGED.replace(b"'", b"''") + b"';\n", {}, ()),
    "COPY that isn't one": (b"SELECT 'COPY t FROM stdin;';\nCOPYING FROM stdin;\nCOPY t TO stdout;\n", {}, ()),
    "a COPY with comments in it": (b"COPY public.t -- (x)\n /* FROM stdin; */ (a) FROM stdin;\n1\n\\.\n", {"public.t": 1}, ()),
    "roles": (
        b'ALTER TABLE public.t OWNER TO archive;\nALTER TABLE t OWNER TO "x OWNER TO y";\n'
        b'GRANT SELECT ON TABLE public."p TO q" TO "Night Observer";\nGRANT ALL ON SCHEMA s TO PUBLIC;\n'
        b"GRANT SELECT ON TABLE t TO \"r TO s\", u WITH GRANT OPTION;\nREVOKE ALL ON TABLE t FROM v;\n"
        b"ALTER DEFAULT PRIVILEGES FOR ROLE w IN SCHEMA public GRANT SELECT ON TABLES TO z;\n"
        b"CREATE POLICY \"a TO b\" ON public.\"c TO d\" AS RESTRICTIVE FOR SELECT TO reader USING ((x <> ' TO nobody'));\n"
        b"CREATE POLICY p ON public.t USING ((age > '1-1'::interval year to month));\n",
        {},
        ("Night Observer", "archive", "r TO s", "reader", "u", "v", "w", "x OWNER TO y", "z"),
    ),
    "carriage returns in comments": (b"-- a comment\rSELECT 1;\nSELECT 2 -- another\r;\n-- and\r\nSELECT 3;\n", {}, ()),
    "a huge literal": (b"SELECT '" + b"x;\n\\.\n" * 300_000 + b"';\n", {}, ()),
    "a huge row": (copy(b"public.t", (b"a", b"b"), [(b"1", b"x" * 2_000_000), (b"2", b"y")]), {"public.t": 2}, ()),
}  # fmt: skip

ENCODINGS = {
    "LATIN1": ("latin-1", "café à l'é"),
    "EUC_JP": ("euc_jp", "望遠鏡 表示"),
    "SJIS": ("shift_jis", "ソ表能 十"),  # their second byte is a backslash
    "WIN1251": ("cp1251", "телескоп"),
    "UTF8": ("utf-8", "望遠鏡 ⛔ é"),
}


def pieces(text: bytes, data: st.DataObject) -> list[int]:
    """Where to cut a text: anywhere, and often next to each other."""
    places = st.integers(0, len(text))
    runs = st.tuples(places, st.integers(1, 40)).map(lambda run: list(range(run[0], min(sum(run), len(text)))))
    drawn = data.draw(st.lists(st.one_of(places.map(lambda place: [place]), runs), max_size=30))
    return sorted({place for run in drawn for place in run})


def bytewise(text: bytes) -> Scan:
    scanner = Scanner()
    for place in range(len(text)):
        scanner.feed(text[place : place + 1])
    return scanner.finish()


# Reading SQL as psql does


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_it_is_fooled_by_no_text_and_no_row(case: str) -> None:
    body, rows, roles = HOSTILE[case]
    for text in (dump(body + MIGRATIONS), old_dump(body + MIGRATIONS)):
        told = scan(text)
        assert told.problem is None
        assert told.rows == {**rows, "public.django_migrations": 2}
        assert told.migrations == MIGRATION_NAMES
        assert told.roles == roles
        assert (told.length, told.sha256) == (len(text), sha256(text))
        assert (told.server_version, told.pg_dump_version) == ("16.14", "16.14")


@pytest.mark.parametrize("case", HOSTILE, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_split_of_a_hostile_text_tells_the_same(case: str, data: st.DataObject) -> None:
    body, _, _ = HOSTILE[case]
    text = dump(body + MIGRATIONS)
    assert scan(text, *pieces(text, data)) == scan(text)


@pytest.mark.parametrize("case", [case for case, (body, _, _) in HOSTILE.items() if len(body) < 10_000])
def test_a_hostile_text_byte_by_byte_tells_the_same(case: str) -> None:
    body, _, _ = HOSTILE[case]
    text = dump(body + MIGRATIONS)
    assert bytewise(text) == scan(text)


SQL_BITS = st.sampled_from(
    [b"'", b"''", b'"', b"$$", b"$a$", b"$", b"$1", b"E'", b"e'", b"\\'", b"\\", b"\\\\", b";", b"(", b")", b"--", b"-",
     b"/*", b"*/", b"/", b"*", b"\n", b"\r", b"\r\n", b" ", b"\t", b"\f", b"a", b"E", b"_", b"\xc3\xa9", b"\xff", b"0", b"\\.\n",
     b"\n\\.\n", b"\n\\.\r\n", b"\n\\.x", b"COPY t FROM stdin;\n", b"COPY public.django_migrations (app, name) FROM stdin;\n", b"a\tb\n",
     b"CREATE FUNCTION f() ", b"BEGIN ", b" CASE ", b"END", b";\n", b"SET standard_conforming_strings = off;\n",
     b"SET client_encoding = 'SJIS';\n", b"\\restrict k\n", b"\\unrestrict k\n", b"\\connect x\n", b"\n\\! id\n", TRAILER, b"n" * 255, b"$" + b"x" * 300 + b"$"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(SQL_BITS, max_size=40).map(b"".join), st.data())
def test_any_split_of_any_soup_of_sql_tells_the_same(text: bytes, data: st.DataObject) -> None:
    whole = scan(text)
    assert scan(text, *pieces(text, data)) == whole
    assert bytewise(text) == whole


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_at_all_make_it_crash(text: bytes) -> None:
    assert bytewise(text) == scan(text)


@pytest.mark.parametrize("bits", [TAG_LIMIT - 2, TAG_LIMIT - 1, TAG_LIMIT + 100])
def test_a_dollar_quote_of_any_length_is_read_or_makes_the_dump_unprovable(bits: int) -> None:
    tag = b"$" + b"x" * bits + b"$"
    text = dump(b"SELECT " + tag + FORGED + tag + b";\n")
    told = scan(text)
    assert (told.problem is None) == (len(tag) <= TAG_LIMIT)
    assert scan(text, *range(0, len(text), 4096)) == told


def test_without_standard_strings_a_backslash_escapes_in_every_string() -> None:
    body = rb"SELECT '\';', '\\', 'a''b\';';" + b"\n" + MIGRATIONS
    assert scan(dump(body, strings=b"off")).problem is None
    assert scan(dump(body, strings=b"off")).migrations == MIGRATION_NAMES
    assert scan(dump(body, strings=b"on")).problem is not None


def test_a_dump_of_endless_names_is_not_proved_and_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan_module, "NAMES_LIMIT", 2000)
    names = [b"n%d" % number for number in range(100)]
    tables = b"".join(b"COPY %s (a) FROM stdin;\n1\n\\.\n" % name for name in names)
    grants = b"".join(b"GRANT x TO %s;\n" % name for name in names)
    assert scan(dump(tables)).problem is None
    told = scan(dump(tables + grants))
    assert told.problem == (
        "no plain pg_dump: it holds more names of tables and roles than can be kept, which pg_dump never writes"
    )
    assert len(told.rows) + len(told.roles) < 110
    assert scan(dump(tables * 9)).problem is None


def test_a_name_is_read_in_the_encoding_that_holds_where_it_stands() -> None:
    body = b"GRANT x TO \xf1;\nCOPY t\xf1 (a) FROM stdin;\n1\n\\.\nSET client_encoding = 'LATIN2';\nCOPY t\xf1 (a) FROM stdin;\n\\.\n"
    told = scan(dump(body, encoding=b"LATIN1"))
    assert told.rows == {"tñ": 1, "tń": 0}
    assert told.roles == ("ñ",)


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_text_in_another_client_encoding_is_read(encoding: str, data: st.DataObject) -> None:
    codec, name = ENCODINGS[encoding]
    raw = name.encode(codec)
    table = b'public."' + raw + b'"'
    body = (
        b"COMMENT ON TABLE x IS '" + raw.replace(b"'", b"''") + b"';\n"
        b"SELECT $$" + raw + b"$$;\n"
        b'ALTER TABLE t OWNER TO "' + raw + b'";\n'
        + table.join([b"COPY ", b" (a, b) FROM stdin;\n1\t" + raw + b"\n2\t" + raw + b"\n\\.\n"])
    )  # fmt: skip
    text = dump(body + MIGRATIONS, encoding=encoding.encode())
    told = scan(text, *pieces(text, data))
    assert told == scan(text)
    assert told.problem is None
    assert told.rows == {f'public."{name}"': 2, "public.django_migrations": 2}
    assert told.roles == (name,)
    assert told.migrations == MIGRATION_NAMES


# Whole databases, generated

NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12)
VALUES = st.one_of(
    st.none(),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20),
    st.sampled_from(
        ["\\.", "\n\\.\n", "--", "-- PostgreSQL database dump complete", FORGED.decode(), "\\N", "\t", ""]
    ),
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def dollar_quoted(text: str) -> str:
    tag, suffixes = "$_", "_XXXXXXX"
    position = 0
    while tag in text:
        tag += suffixes[position]
        position = (position + 1) % len(suffixes)
    return f"{tag}${text}{tag}$"


@st.composite
def databases(draw: st.DrawFn) -> tuple[bytes, dict[str, int], tuple[str, ...] | None]:
    """A dump as pg_dump writes it, rows per table, and the migrations."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    tables = {
        f"{quoted(draw(NAMES))}.{quoted(name)}": draw(st.lists(st.tuples(VALUES, VALUES), max_size=4))
        for name in names
    }
    migrations = draw(st.none() | st.lists(st.tuples(NAMES, NAMES), max_size=3))
    if migrations is not None:
        tables["public.django_migrations"] = [*migrations]
    parts: list[str] = []
    for table, rows in tables.items():
        parts += [f"COMMENT ON TABLE {table} IS {literal(draw(VALUES) or '')};\n\n\n"]
        parts += [
            f"CREATE FUNCTION {table}() RETURNS text LANGUAGE sql\n    AS {dollar_quoted(draw(VALUES) or '')};\n\n\n"
        ]
        parts += [
            copy(
                table.encode(),
                (b"app", b"name"),
                [tuple(None if v is None else v.encode() for v in row) for row in rows],
            ).decode()
        ]
    order = draw(st.permutations(parts))
    text = dump("".join(order).encode())
    recorded = None if migrations is None else tuple(f"{app}.{name}" for app, name in migrations)
    return text, {table: len(rows) for table, rows in tables.items()}, recorded


@settings(max_examples=150, deadline=None)
@given(databases(), st.data())
def test_rows_and_migrations_of_any_database_are_told_exactly(
    database: tuple[bytes, dict[str, int], tuple[str, ...] | None], data: st.DataObject
) -> None:
    text, rows, migrations = database
    told = scan(text, *pieces(text, data))
    assert told.problem is None
    assert told.rows == rows
    assert told.migrations == migrations


def test_more_migrations_than_a_project_can_have_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MIGRATIONS_LIMIT", 40)
    told = scan(dump(MIGRATIONS), 700, 701)
    assert (told.problem, told.migrations, told.rows) == (None, None, {"public.django_migrations": 2})


def test_a_table_of_migrations_that_is_not_django_s_tells_none() -> None:
    assert scan(dump(copy(b"public.django_migrations", (b"a", b"b"), [(b"1", b"2")]))).migrations is None


def test_a_dump_without_the_table_tells_none_and_one_with_an_empty_table_tells_an_empty_list() -> None:
    assert scan(dump()).migrations is None
    assert scan(dump(copy(b"public.django_migrations", (b"app", b"name"), []))).migrations == ()


# Proof


@pytest.mark.parametrize(
    "text", [SMALL, old_dump(MIGRATIONS), dump(HOSTILE["rows like marks"][0])], ids=["new", "old", "rows"]
)
def test_no_beginning_of_a_dump_is_complete(text: bytes) -> None:
    needed = len(text.rstrip(b"\n")) + 1
    complete = [end for end in range(len(text) + 1) if scan(text[:end]).problem is None]
    assert complete == list(range(needed, len(text) + 1))


def test_what_is_cut_says_where() -> None:
    def problem(text: bytes) -> str | None:
        return scan(text).problem

    assert problem(b"") == "it is empty"
    assert "cut short" in (problem(SMALL[:10]) or "")
    after_vega = SMALL.index(b"Vega\n") + 6
    assert problem(SMALL[:after_vega]) == "cut short: it ends after 1 rows of table public.targets"
    assert problem(SMALL[: SMALL.index(b"it''s")]) == "cut short: it ends inside a quoted string"
    assert problem(SMALL[: SMALL.index(TRAILER)]) == "cut short: the line that ends every pg_dump is missing"
    assert problem(SMALL[: SMALL.index(b"\\unrestrict")]) == "cut short: the \\unrestrict that ends it is missing"


@pytest.mark.parametrize(
    "forged",
    [FORGED, TRAILER, TRAILER + b"\n\\unrestrict " + KEY + b"\n"],
    ids=["copy", "trailer", "trailer and key"],
)
def test_a_dump_cut_right_after_a_forged_end_is_not_complete(forged: bytes) -> None:
    for before in (
        b"COPY public.t (line) FROM stdin;\n",
        b"COMMENT ON TABLE t IS '",
        b"SELECT E'",
        b"SELECT $$",
        b"/* ",
        b'SELECT "',
    ):
        text = dump(before + forged)
        cut = text.index(before) + len(before + forged)
        lenient = b"COPY" in before and b"\\.\n" in forged  # there the data do end, at a line that no row can be
        assert (scan(text[:cut]).problem is None) <= lenient, before


@pytest.mark.parametrize(
    ("first", "last", "proved"),
    [
        (b"\\restrict k1\n", b"\\unrestrict k1\n", True),
        (b"\\restrict k1\r\n", b"\\unrestrict k1\r\n", True),
        (b"", b"", True),
        (b"\\restrict k1\n", b"\\unrestrict k2\n", False),
        (b"\\restrict k1\n", b"\\unrestrict\n", False),
        (b"\\restrict k1\n", b"", False),
        (b"\\restrict k1\n", b"\\unrestrict k1", False),
        (b"", b"\\unrestrict k1\n", False),
        (b"\\restrict\n", b"\\unrestrict\n", False),
        (b"\\restrict `id`\n", b"\\unrestrict `id`\n", False),
        (b"\\restrict k1 \\! id\n", b"\\unrestrict k1 \\! id\n", False),
        (b"\\restrict k1\n\\restrict k1\n", b"\\unrestrict k1\n", False),
        (b"\\restrict k1\nSELECT 1;\n\\unrestrict k1\n\\connect db\n\\restrict k2\n", b"\\unrestrict k2\n", True),
        (b"\\restrict k1\nSELECT 1;\n\\unrestrict k1\n\\connect db\n\\restrict k2\n", b"\\unrestrict k1\n", False),
    ],
)  # fmt: skip
def test_the_key_at_the_end_must_be_the_one_at_the_top(first: bytes, last: bytes, proved: bool) -> None:
    text = first + b"SELECT 1;\n" + TRAILER + b"\n" + last
    assert (scan(text).problem is None) == proved
    assert bytewise(text) == scan(text)


@pytest.mark.parametrize(
    "line",
    [b"\\! id", b"\\i /etc/passwd", b"\\copy t from x", b"\\set x 1", b"\\gexec", b"\\q", b"\\", b"\\connect x \\! id",
     b"\\connect `id`", b"\\connect :x", b"\\connect 'x'", b"\\connectx", b"\\unrestrict", b"\\" + b"x" * 5000],
)  # fmt: skip
def test_any_other_command_of_psql_makes_it_unprovable(line: bytes) -> None:
    for text in (dump(line + b"\n"), dump(b"SELECT 1 " + line + b"\n;\n")):
        assert "pg_dump never writes" in (scan(text).problem or "")
        assert bytewise(text).problem == scan(text).problem


@pytest.mark.parametrize(
    "line",
    [b"\\connect arcsecond", b'\\connect -reuse-previous=on "dbname=\'a \\\\ ""b\'"', b'\\connect "a `b"'],
)
def test_the_command_that_pg_dump_does_write_is_allowed(line: bytes) -> None:
    assert scan(dump(line + b"\n" + MIGRATIONS)).problem is None


@pytest.mark.parametrize("more", [b"SELECT 1;\n", b";\n", b"\\connect x\n", b"\\! id\n", MIGRATIONS])
def test_text_after_the_end_makes_it_unprovable(more: bytes) -> None:
    assert scan(SMALL + more).problem is not None
    assert scan(SMALL.replace(b"\n\\unrestrict", b"\n" + more + b"\n\\unrestrict")).problem is not None


@pytest.mark.parametrize("more", [b"", b"\n", b" \r\n\t\n", b"-- Completed on 2026-01-01\n", b"/* the end */\n"])
def test_comments_and_white_space_after_the_end_are_harmless(more: bytes) -> None:
    assert scan(SMALL + more).problem is None


def test_text_between_a_copy_and_its_data_makes_it_unprovable() -> None:
    assert scan(dump(b"COPY t (a) FROM stdin; SELECT 1;\n1\n\\.\n")).problem is not None


def test_data_that_psql_ends_at_a_carriage_return_hide_nothing() -> None:
    body = b"COPY t (a) FROM stdin;\n1\n\\.\r\nSELECT 1;\n\\.\n"
    told = scan(dump(body))
    assert "carriage return" in (told.problem or "")
    assert told.rows == {"t": 1}
    assert bytewise(dump(body)) == told


# Content


def test_the_content_is_the_same_whatever_the_key() -> None:
    other = SMALL.replace(KEY, b"0therKey")
    assert scan(other).content_sha256 == scan(SMALL).content_sha256
    assert scan(other).sha256 != scan(SMALL).sha256
    assert scan(SMALL).content_sha256 == sha256(
        b"".join(line for line in SMALL.splitlines(True) if KEY not in line)
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_the_content_differs_when_anything_but_the_key_does(place: int, change: int) -> None:
    other = bytearray(SMALL)
    other[place] ^= change
    line_start = SMALL.rfind(b"\n", 0, place) + 1
    line = SMALL[line_start : SMALL.index(b"\n", place) + 1]
    assume(KEY not in line)
    assert scan(bytes(other)).content_sha256 != scan(SMALL).content_sha256


@example([1, 2, 3])
@settings(deadline=None)
@given(st.lists(st.integers(0, len(SMALL)), max_size=10))
def test_the_content_is_the_same_however_the_blocks_are_cut(cuts: list[int]) -> None:
    assert scan(SMALL, *cuts).content_sha256 == scan(SMALL).content_sha256


# Memory and time

MEBIBYTE = 1 << 20


def blocks_of(before: bytes, unit: bytes, after: bytes, mebibytes: int) -> Iterator[bytes]:
    """A dump that is one piece repeated for so many mebibytes, in blocks of one."""
    block = (unit * (MEBIBYTE // len(unit) + 1))[:MEBIBYTE]
    yield dump(before).partition(TRAILER)[0].rstrip(b"\n")
    for _ in range(mebibytes):
        yield block
    yield after + b"\n" + TRAILER + b"\n\\unrestrict " + KEY + b"\n"


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        (b"SELECT '", b"x", b"';"),
        (b"SELECT E'", b"x", b"';"),
        (b"SELECT $body$", b"x", b"$body$;"),
        (b'SELECT "', b"x", b'";'),
        (b"COPY t (a) FROM stdin;\nx", b"x", b"\n\\."),
        (b"COPY public.django_migrations (app, name) FROM stdin;\nx", b"x", b"\n\\."),
        (b"-- ", b"x", b""),
        (b"/* ", b"x", b"*/"),
        (b"SELECT ", b"x", b";"),
        (b"SELECT ", b"1, ", b"1;"),
        (b"CREATE FUNCTION f() BEGIN ATOMIC ", b"SELECT 1; ", b" END;"),
        (b"SELECT $", b"x", b" 1;"),
    ],
    ids=["literal", "E literal", "dollar quote", "name", "row", "migrations", "comment", "block comment", "word", "list", "body", "tag"],
)  # fmt: skip
def test_memory_does_not_grow_with_the_longest_literal_row_or_comment(
    before: bytes, unit: bytes, after: bytes
) -> None:
    gc.collect()
    scanner = Scanner()
    text = blocks_of(before, unit, after, 64 if len(unit) == 1 else 2)
    tracemalloc.start()
    try:
        for block in text:
            scanner.feed(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    told = scanner.finish()
    assert told.problem is None or before == b"SELECT $"
    assert told.length > 2 * MEBIBYTE
    limit = 16 if b"migrations" in before else 8  # the rows of that table are kept, up to MIGRATIONS_LIMIT
    assert peak < limit * MEBIBYTE


HOSTILE_TO_PATTERNS: dict[str, Callable[[int], bytes]] = {
    "dollars": lambda n: b"SELECT " + b"$" * n,
    "dollars and letters": lambda n: b"SELECT " + b"a$" * (n // 2),
    "dollar tags": lambda n: b"SELECT " + b"$a " * (n // 3),
    "different dollar tags": lambda n: b"SELECT " + b" ".join(b"$t%d$" % i for i in range(n // 9)),
    "quotes": lambda n: b"SELECT " + b"'" * n,
    "quotes after long words": lambda n: b"SELECT " + (b"a" * 250 + b" ''") * (n // 253),
    "E quotes": lambda n: b"SELECT " + b"E'\\''" * (n // 5),
    "E quotes and space": lambda n: b"SELECT E'" + b"' " * (n // 2),
    "double quotes": lambda n: b"SELECT " + b'"' * n,
    "semicolons": lambda n: b";" * n,
    "semicolons in a body": lambda n: b"CREATE FUNCTION f() BEGIN ATOMIC " + b";" * n,
    "ends in a body": lambda n: b"CREATE FUNCTION f() BEGIN ATOMIC " + b"CASE END;" * (n // 9),
    "a routine's space and begins": lambda n: b"CREATE" + b" " * (n // 2) + b"x" + b" BEGIN" * (n // 12) + b";",
    "begins": lambda n: b"SELECT " + b"BEGIN " * (n // 6),
    "dollar quotes in a body": lambda n: b"CREATE FUNCTION f() BEGIN ATOMIC " + b" ".join(b"$t%d$;" % i for i in range(n // 9)),
    "comments opened in a body": lambda n: b"CREATE FUNCTION f() BEGIN ATOMIC " + b"/* " * (n // 6) + b"*/ " * (n // 6) + b";",
    "a long word": lambda n: b"SELECT " + b"a" * n,
    "a long number": lambda n: b"SELECT " + b"1" * n,
    "hyphens": lambda n: b"-" * n,
    "hyphens apart": lambda n: b"SELECT " + b"- " * (n // 2),
    "slashes": lambda n: b"SELECT " + b"/ " * (n // 2),
    "comments opened": lambda n: b"/*" * (n // 2),
    "comments opened in a COPY": lambda n: b"COPY " + b"/* " * (n // 6) + b"*/ " * (n // 6) + b" FROM stdin;\n",
    "COPY and space": lambda n: b"COPY" + b" " * n + b"x;",
    "COPY and a name of many parts": lambda n: b"COPY " + b"a . " * (n // 4) + b";",
    "COPY and many columns": lambda n: b"COPY t (" + b"a , " * (n // 4) + b";" + b")" + b";",
    "COPY and quotes": lambda n: b"COPY " + b'""' * (n // 2) + b";",
    "short COPYs": lambda n: b"COPY t FROM stdin;\n\\.\n" * (n // 22),
    "rows like ends": lambda n: b"COPY t FROM stdin;\n" + b"\\.x\n" * (n // 4),
    "owners": lambda n: b"ALTER TABLE x " + b"OWNER TO a " * (n // 11) + b";",
    "owners and space": lambda n: b"ALTER TABLE x OWNER" + b" " * n + b";",
    "grants": lambda n: b"GRANT x " + b"TO " * (n // 3) + b'";";',
    "grantees": lambda n: b"GRANT x TO " + b"a , " * (n // 4) + b";",
    "policies": lambda n: b"CREATE POLICY p ON " + b"t . " * (n // 4) + b";",
    "many policies": lambda n: b"CREATE POLICY p ON t TO 1 " * (n // 26) + b";",
    "settings": lambda n: b"SET x" + b" " * n + b";",
    "commands": lambda n: b"\\connect " + b'"" ' * (n // 3) + b"!\n",
    "parentheses": lambda n: b"SELECT " + b"()" * (n // 2),
    "white space": lambda n: b" \n" * (n // 2),
}  # fmt: skip


def seconds_for(text: bytes) -> float:
    scanner = Scanner()
    began = process_time()
    for start in range(0, len(text), MEBIBYTE):
        scanner.feed(text[start : start + MEBIBYTE])
    scanner.finish()
    return process_time() - began


@pytest.mark.parametrize("case", HOSTILE_TO_PATTERNS, ids=str)
def test_time_grows_no_faster_than_the_text(case: str) -> None:
    make = HOSTILE_TO_PATTERNS[case]
    small, factor = 32 << 10, 8
    before = min(seconds_for(make(small)) for _ in range(2))
    after = seconds_for(make(factor * small))
    # What grows with the square takes 64 times as long; noise on a busy machine doesn't make it 32 times.
    assert after < 0.1 + 4 * factor * before


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE_TO_PATTERNS, ids=str)
def test_four_mebibytes_of_any_hostile_text_are_read_in_seconds(case: str) -> None:
    assert seconds_for(HOSTILE_TO_PATTERNS[case](4 * MEBIBYTE)) < 60

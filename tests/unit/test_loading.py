"""What psql may be given of a dump: no command of its own, wherever a block ends; and what it says, checked."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcbackupd.dumps import loading
from arcbackupd.dumps.loading import (
    HEADER_LIMIT,
    CopyCheck,
    LoadText,
    RefusedText,
    adapt_header,
    knows_restrict,
)
from tests.unit.sample_dumps import KEY, SMALL, copy, dump, old_dump

RESTRICTING = b"\\restrict %s\n" % KEY
UNRESTRICTING = b"\\unrestrict %s\n" % KEY


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def passed_on(text: bytes, cuts: list[int] | None = None, *, restricted: bool = True) -> bytes:
    """What psql gets of a text that comes in pieces; RefusedText when it may not have it."""
    load = LoadText(restricted)
    given = [piece for block in pieces(text, cuts or []) for piece in load.feed(block)]
    return joined([*given, *load.finish()])


def joined(pieces: list[memoryview]) -> bytes:
    return b"".join(map(bytes, pieces))


TOLD = re.compile(rb"SET client_encoding TO '[\w-]+';SET standard_conforming_strings TO (?:on|off);\n")
"""What an old psql is told before each statement."""


def counted(text: bytes) -> dict[str, int]:
    load = LoadText(restricted=True)
    load.feed(text)
    load.finish()
    return {copied.name: copied.rows for copied in load.copies}


cuts = st.lists(st.integers(0, 1 << 20), max_size=12)

# What goes on


@given(cuts)
@example([SMALL.index(KEY) + 3, SMALL.index(b"a\\\\.b") + 2])
def test_all_of_a_dump_goes_on_but_its_own_restrict_lines_wherever_a_block_ends(at: list[int]) -> None:
    expected = SMALL.replace(RESTRICTING, b"").replace(UNRESTRICTING, b"")
    assert passed_on(SMALL, at) == expected


@given(cuts)
def test_a_dump_of_an_old_pg_dump_goes_on_byte_for_byte(at: list[int]) -> None:
    old = old_dump(b"SELECT 1;\n" + copy(b"public.t", (b"a",), [(b"1",)]))
    assert passed_on(old, at) == old
    assert TOLD.sub(b"", passed_on(old, at, restricted=False)) == old


def test_every_single_place_of_a_cut_leaves_the_same_text_and_the_same_rows() -> None:
    whole = passed_on(SMALL, restricted=False)
    for place in range(len(SMALL)):
        load = LoadText(restricted=False)
        given = [piece for block in (SMALL[:place], SMALL[place:]) for piece in load.feed(block)]
        assert joined([*given, *load.finish()]) == whole
        assert [(copied.name, copied.rows) for copied in load.copies] == [
            ("public.django_migrations", 2),
            ("public.targets", 3),
        ]


HARMLESS = [
    copy(b"public.t", (b"a",), [(b"\\! touch x",), (b"\\connect other",)]),
    b"COPY public.t (a) FROM stdin;\n\\! touch x\n\\\\! touch x\n\\.\n",
    b"INSERT INTO t VALUES ('a\n\\! touch x\n');\n",
    b"INSERT INTO t VALUES (E'a\\'\n\\! touch x\n');\n",
    b"INSERT INTO t VALUES (E'\\\\', '\n\\! touch x\n');\n",
    b'CREATE TABLE "a\n\\! touch x" ();\n',
    b"CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $_$\n\\! touch x\n$_$;\n",
    b"DO $a$ $b$\n\\! touch x\n$b$\n\\connect x\n$a$;\n",
    b"/* a\n\\! touch x\n /* \\! */ \n\\connect x */\n",
    b"-- \\! touch x\n",
    b"CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT '\n\\! x'; SELECT 2; END;\n",
]


@pytest.mark.parametrize("body", HARMLESS)
@settings(max_examples=15, deadline=None)
@given(at=cuts)
def test_what_only_looks_like_a_command_inside_data_strings_bodies_and_comments_goes_on(
    body: bytes, at: list[int]
) -> None:
    expected = dump(body).replace(RESTRICTING, b"").replace(UNRESTRICTING, b"")
    assert passed_on(dump(body), at) == expected


# What an old psql is told besides


@given(cuts)
def test_an_old_psql_is_told_before_each_statement_how_to_read_it(at: list[int]) -> None:
    body = b"SELECT 1; SELECT 2;\n  -- x\n  SELECT\n3;\n" + copy(b"public.t", (b"a",), [(b"SELECT 4;",)])
    text = passed_on(dump(body), at, restricted=False)
    utf8 = b"SET client_encoding TO 'utf8';SET standard_conforming_strings TO on;\n"
    assert b"%sSELECT 1; %sSELECT 2;\n  -- x\n  %sSELECT\n3;\n%sCOPY public.t" % (utf8, utf8, utf8, utf8) in text
    assert text.startswith(b"SET client_encoding TO 'sql_ascii';")
    assert len(TOLD.findall(text)) == 1 + 4 + 4  # at the top, before the header's statements, before the others


def test_before_a_dump_has_told_its_encoding_an_old_psql_takes_its_text_as_it_is() -> None:
    told = b"SET client_encoding TO 'sql_ascii';SET standard_conforming_strings TO on;\n"
    assert passed_on(b"SELECT 1;\n", restricted=False) == told + told + b"SELECT 1;\n"


def test_strings_are_read_as_the_dump_said_last() -> None:
    text = passed_on(dump(b"SELECT 1;\n", strings=b"off"), restricted=False)
    assert b"SET standard_conforming_strings TO off;\nSELECT 1;\n" in text


MISREAD = [
    b"SELECT E'a'\n'b\\' \\! touch x\n';\n",
    b"SELECT E'a'\f'b\\' \\! touch x\n';\n",
    b"/* x */ SELECT 1;\n",
    b"SELECT 1 /* x */;\n",
    b"SELECT 1 -- x\n;\n",
    b"-- x\r/*\n\\! touch x\n*/\n",
    b"SELECT 1;\r\n",
    b"SELECT 1\r;\n",
    b"SET client_encoding = 'S JIS';\n",
    b"SET client_encoding = SJIS;\n",
    b"COPY z /* /* */ FROM STDIN */ TO STDOUT;\n\\! touch x\n\\.\n",
    b"COPY z FROM stdin WITH (FORMAT csv);\n1\n\\.\n",
    b"SELECT 1\0, '\n;\n\\! touch x\n';\n",
    copy(b"public.t", (b"a",), [(b"\0",)]),
    b"CREATE /**/ FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;\nCOPY t FROM stdin;\n\\! touch x\n",
    b"CREATE 1 FUNCTION BEGIN;\n\\! touch x\n",
    b"CREATE FUNCTION $BEGIN;\n",
    b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;\n",
    b"CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1';\n",
    b"SELECT x[1:begin];\n",
    b"SELECT :E'\\' \\! touch x\n';\n",
    b"SELECT :a$$ '$$ \\! touch x\n';\n",
    b"SELECT :'x';\n",
    b'SELECT :"x";\n',
    b"SELECT 1e-- \\! touch x\n;\n",
    b"SELECT 1a$$ '$$ \\! touch x\n';\n",
    b"SELECT $1a$$ '$$ \\! touch x\n';\n",
    b"SELECT 0x1a$$ '$$ \\! touch x\n';\n",
    b"SELECT 1_0$$ '$$ \\! touch x\n';\n",
    b"SELECT 1E'\\' \\! touch x\n';\n",
    b"SELECT N'\\' \\! touch x\n';\n",
    b"SELECT 1.E'\\' \\! touch x\n';\n",
    b"SELECT 1.e5$$ '$$ \\! touch x\n';\n",
    b"SELECT 1.a$$ '$$ \\! touch x\n';\n",
    b'"x" CREATE FUNCTION BEGIN;\nCOPY t FROM stdin;\n\\! touch x\n\\.\n',
    b"+ CREATE FUNCTION BEGIN;\n\\! touch x\n",
    b'U&"x" CREATE FUNCTION BEGIN;\n\\! touch x\n',
    b"CREATE OR REPLACE PROCEDURE BEGIN;\n\\! touch x\n",
    b"-- \x81\rSELECT '\x81', ' \\! touch x\n';\n",
    b"SELECT x[1:'\\' \\! touch x\n';\n",
    b"SELECT '" + b"x" * (1 << 20) + b"';\n",
]
"""What psql and the lexer read differently, in one major or another."""


@pytest.mark.parametrize("body", MISREAD, ids=[str(number) for number in range(len(MISREAD))])
@settings(max_examples=5, deadline=None)
@given(at=cuts)
def test_what_an_old_psql_may_read_otherwise_is_refused(body: bytes, at: list[int]) -> None:
    with pytest.raises(RefusedText):
        passed_on(dump(body), at, restricted=False)


@pytest.mark.parametrize("body", MISREAD, ids=[str(number) for number in range(len(MISREAD))])
@settings(max_examples=5, deadline=None)
@given(at=cuts)
def test_nothing_of_a_statement_goes_to_an_old_psql_before_all_of_it_was_looked_at(
    body: bytes, at: list[int]
) -> None:
    load, given = LoadText(restricted=False), b""
    with pytest.raises(RefusedText):  # noqa: PT012  # what was handed on until then is what counts
        for block in pieces(dump(body), at):
            given += joined(load.feed(block))
        given += joined(load.finish())
    assert b"touch x" not in given


@pytest.mark.parametrize("string", [b"'\\'", b"U&'\\'", b"B'\\'", b"X'\\'"])
def test_without_standard_strings_no_plain_string_may_have_a_backslash(string: bytes) -> None:
    with pytest.raises(RefusedText):
        passed_on(dump(b"SELECT " + string + b" \\! touch x\n';\n", strings=b"off"), restricted=False)


PG_DUMP = [
    (
        b"CREATE TABLE public.\"T t\" (\n    id bigint DEFAULT nextval('public.s'::regclass) NOT NULL,\n"
        b"    b bit(3) DEFAULT B'101'::\"bit\",\n    a integer[] DEFAULT '{}'::integer[],\n"
        b"    CONSTRAINT c CHECK (((x)::text ~ '^\\d+$'::text)),\n    \"begin\" timestamp without time zone\n);\n"
    ),
    b"CREATE TABLE public.t (\n    begin text\n);\n",
    (
        b"CREATE FUNCTION public.f() RETURNS trigger\n    LANGUAGE plpgsql\n"
        b"    AS $_$\r\nBEGIN\n  RETURN $1; -- '\nEND $_$;\n"
    ),
    b"COMMENT ON TABLE public.t IS 'it''s C:\\path\\ \xc3\xa9 /* -- ; $$';\n",
    b"COMMENT ON TABLE public.t IS E'two\\nlines \\'x\\'';\n",
    (
        b"CREATE VIEW public.v AS\n SELECT (t.a)[1:2] AS x,\n    ((1.5e10 * '-1'::integer))::real AS y,\n"
        b"    (t.j -> 'k'::text) AS j\n   FROM (public.t\n     JOIN public.u USING (id))\n  WHERE (t.a <> 2);\n"
    ),
    b"SELECT pg_catalog.setval('public.names', 7, true);\n",
    b"SELECT pg_catalog.lowrite(0, '\\x00ff5c');\n",
    b"CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f('a\\b', 'it''s');\n",
    (
        b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES public.s(a) DEFERRABLE"
        b" INITIALLY DEFERRED;\n"
    ),
    b'GRANT SELECT,INSERT ON TABLE public.t TO "r-1";\n',
    b"INSERT INTO public.t VALUES (1, NULL, -2.5, 'x', true, E'\\\\');\n",
    b"CREATE OPERATOR public.=== (\n    FUNCTION = int4eq,\n    LEFTARG = integer,\n    RIGHTARG = integer\n);\n",
    b"ALTER DEFAULT PRIVILEGES FOR ROLE r IN SCHEMA names GRANT SELECT ON TABLES  TO x;\n",
    b"BEGIN;\n\nSELECT pg_catalog.lo_open('16411', 131072);\nCOMMIT;\n",
    b'COPY public.t (begin, "end") FROM stdin;\n1\t2\n\\.\n',
    b"COMMENT ON COLUMN public.t.begin IS 'x';\n",
    b"CREATE FUNCTION public.f(begin integer) RETURNS TABLE(begin int)\n    LANGUAGE sql\n    AS $$SELECT 1$$;\n",
    b"CREATE INDEX i ON public.t USING btree ((a[2:]), (a[:]), (a[1:(n + 1)]));\n",
    b"CREATE RULE r AS\n    ON INSERT TO public.v DO INSTEAD ( INSERT INTO public.t VALUES (1);\n SELECT 2;\n);\n",
    b"CREATE FUNCTION public.g(a integer) RETURNS integer\n    LANGUAGE sql\n    RETURN ($1 + $2);\n",
    copy(b'public."T t"', (b"id", b'"b b"'), [(b"\\! x", b"\r")]),
]


@pytest.mark.parametrize("body", PG_DUMP)
@settings(max_examples=5, deadline=None)
@given(at=cuts)
def test_what_pg_dump_writes_is_for_an_old_psql_too(body: bytes, at: list[int]) -> None:
    whole = dump(body)
    expected = whole.replace(RESTRICTING, b"").replace(UNRESTRICTING, b"")
    assert TOLD.sub(b"", passed_on(whole, at, restricted=False)) == expected


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        b"DROP /* /* */ */ DATABASE victim",
        b"ALTER /**/ SYSTEM SET a = 1",
        b"DROP" + b"/*" + b" " * (2 << 20) + b"*/x",
    ],
    ids=["nested", "short", "long"],
)
def test_no_comment_hides_a_statement_that_changes_the_server(statement: bytes, restricted: bool) -> None:
    with pytest.raises(RefusedText):
        passed_on(dump(statement + b";\n"), restricted=restricted)


def test_as_many_statements_as_there_are_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_SHIFTS", 100)
    load = LoadText(restricted=False)
    load.feed(b"SELECT 1;\n" * 1000)
    assert len(load._shifts) == 100


READING = [
    b"SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false)",
    b"SELECT set_config('client_encoding', 'SJIS', false)",
    b"SET SESSION standard_conforming_strings = off",
    b"SET LOCAL client_encoding = 'SJIS'",
    b'SET "standard_conforming_strings" = off',
    b"SET/**/standard_conforming_strings = off",
    b"SET NAMES 'SJIS'",
]


@pytest.mark.parametrize("statement", READING)
def test_what_tells_psql_otherwise_how_to_read_is_refused_for_an_old_one_only(statement: bytes) -> None:
    text = dump(statement + b";\n")
    with pytest.raises(RefusedText, match=r"old psql|never makes it"):
        passed_on(text, restricted=False)
    assert statement in passed_on(text)


@pytest.mark.parametrize("restricted", [True, False])
@given(at=cuts)
def test_the_line_that_psql_tells_is_found_in_the_dump(restricted: bool, at: list[int]) -> None:
    body = b"SELECT 1;\n" + copy(b"public.t", (b"a",), [(b"1",), (b"2",)]) + b"SELECT 2;\n\nSELECT\n 3;\n"
    whole = dump(body)
    load = LoadText(restricted)
    load.insert(b"SELECT 0;\n\n")
    given = [piece for block in pieces(whole, at) for piece in load.feed(block)]
    seen = joined([*given, *load.finish()])
    for wanted in (b"SELECT 1;", b"\n1\n", b"SELECT 2;", b" 3;", b"dump complete"):
        line = seen[: seen.index(wanted)].count(b"\n") + 1
        assert load.line_of_dump(line) == whole[: whole.index(wanted)].count(b"\n") + 1, wanted


# What doesn't

COMMANDS = [
    b"\\! touch x\n",
    b"\\!touch x\n",
    b"\\connect other\n",
    b"\\c other\n",
    b"\\i /etc/passwd\n",
    b"\\ir x\n",
    b"\\o |touch x\n",
    b"\\g |touch x\n",
    b"\\copy t from program 'touch x'\n",
    b"\\set x `touch x`\n",
    b"\\gexec\n",
    b"\\unset ON_ERROR_STOP\n",
    b"\\restrictx key\n",
    b"\\restrict\\! touch x\n",
    b"   \\! touch x\n",
    b"-- comment\n\\! touch x\n",
    b"/* */ \\! touch x\n",
    b"SELECT 1; \\! touch x\n",
    b"SELECT 1 \\! touch x\n",
    b"SELECT 1 \\g |touch x\n",
    b"SELECT (1 \\! touch x\n);\n",
    b"SELECT 'a' \\! touch x\n;\n",
    b"SELECT '\\' \\! touch x\n;\n",
    b"SELECT $$a$$ \\! touch x\n;\n",
    b"COPY public.t (a) FROM stdin; \\! touch x\n1\n\\.\n",
    b"COPY public.t (a) FROM stdin;\n1\n\\.\n\\! touch x\n",
    b"COPY public.t (a) FROM stdin;\n1\n\\.\r\n\\! touch x\n",
    b"COPY public.t (a) TO stdout;\n\\! touch x\n\\.\n",
    b"CREATE FUNCTION f() AS $$ $$;\n\\! touch x\n",
    b"SELECT E'\\\\';\n\\! touch x\n",
]


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("body", COMMANDS)
@settings(max_examples=15, deadline=None)
@given(at=cuts)
def test_a_command_of_psql_s_makes_the_dump_refused_wherever_a_block_ends(
    body: bytes, restricted: bool, at: list[int]
) -> None:
    with pytest.raises(RefusedText):
        passed_on(dump(body), at, restricted=restricted)


@given(st.sampled_from([body for body in COMMANDS if b"touch x" in body]), cuts)
def test_nothing_of_a_command_reaches_psql_before_the_dump_is_refused(body: bytes, at: list[int]) -> None:
    load, given = LoadText(restricted=False), b""
    with pytest.raises(RefusedText):  # noqa: PT012  # what was handed on until then is what counts
        for block in pieces(dump(body), at):
            given += joined(load.feed(block))
    assert b"touch x" not in given


@pytest.mark.parametrize("tail", [b"\\! touch x", b"\\!", b"\\", b"SELECT 1;\n\\g |touch x", b"-- x\n  \\c other"])
def test_a_command_at_the_very_end_without_a_newline_is_refused_too(tail: bytes) -> None:
    with pytest.raises(RefusedText):
        passed_on(dump() + tail)


def test_with_standard_strings_off_a_backslash_ends_no_string() -> None:
    text = dump(b"INSERT INTO t VALUES ('a\\'; \n\\! touch x\n');\n", strings=b"off")
    assert b"touch x" in passed_on(text)
    with pytest.raises(RefusedText):
        passed_on(text.replace(b"= off", b"= on"))


def test_a_refusal_names_the_command_and_nothing_behind_it() -> None:
    with pytest.raises(RefusedText) as caught:
        passed_on(dump(b"\\connect postgres://secret\n"))
    assert str(caught.value) == "the psql command \\connect"


@pytest.mark.parametrize(
    "line", [b"\\restrict abc\n", b"\\unrestrict abc\n", b"\\restrict\n", b"\\unrestrict x y\n"]
)
def test_restrict_lines_with_any_key_never_reach_psql_which_has_a_key_of_ours(line: bytes) -> None:
    assert b"restrict" not in passed_on(dump(line))


@pytest.mark.parametrize(
    "statement",
    [b"CREATE DATABASE x", b"drop\ndatabase x", b"ALTER  DATABASE x OWNER TO y", b"ALTER SYSTEM SET a = 1"],
)
def test_a_statement_that_changes_the_server_is_refused(statement: bytes) -> None:
    with pytest.raises(RefusedText, match="which changes the server"):
        passed_on(dump(statement + b";\n"))


@pytest.mark.parametrize(
    "encoding",
    ["SJIS", "Shift_JIS_2004", "BIG5", "GBK", "GB18030", "UHC", "johab", "WIN932", "windows-936", "mskanji"],
)
def test_an_encoding_with_backslashes_inside_characters_is_refused_for_an_old_psql_only(encoding: str) -> None:
    text = dump(encoding=encoding.encode())
    with pytest.raises(RefusedText, match="old psql"):
        passed_on(text, restricted=False)
    assert encoding.encode() in passed_on(text)


@pytest.mark.parametrize("encoding", [b"UTF8", b"LATIN1", b"EUC_JP", b"WIN1252", b"SQL_ASCII"])
def test_other_encodings_are_fine_for_an_old_psql(encoding: bytes) -> None:
    assert encoding in passed_on(dump(encoding=encoding), restricted=False)


# Versions


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ("12.22", False), ("13.21", False), ("13.22", True), ("14.18", False), ("14.19", True), ("15.13", False),
        ("15.14", True), ("16.9", False), ("16.10", True), ("17.5", False), ("17.6", True), ("18.0", True),
        ("18beta3", True), ("19devel", True), ("16", False), ("9.6.24", False), ("", False),
    ],
)  # fmt: skip
def test_psql_knows_restrict_since_the_release_of_august_2025(version: str, knows: bool) -> None:
    assert knows_restrict(version) is knows


TIMEOUT = b"SET transaction_timeout = 0;\n"


@pytest.mark.parametrize(("major", "left_out"), [(15, True), (16, True), (17, False), (18, False)])
def test_a_setting_that_the_server_does_not_know_is_left_out_of_the_header(major: int, left_out: bool) -> None:
    text = dump().replace(b"SET client", TIMEOUT + b"SET client")
    adapted = adapt_header(text, major)
    assert adapted == ((text.replace(TIMEOUT, b""), ["transaction_timeout"]) if left_out else (text, []))


def test_behind_the_header_nothing_is_left_out() -> None:
    text = dump(b"CREATE TABLE t ();\n" + TIMEOUT + copy(b"t", (b"a",), [(TIMEOUT[:-1],)]))
    assert adapt_header(text, 15) == (text, [])


def test_a_header_without_an_end_is_adapted_no_further_than_its_limit() -> None:
    text = b"-- x\n" * (HEADER_LIMIT // 5 + 1) + TIMEOUT
    assert adapt_header(text, 15) == (text, [])


@given(st.binary(max_size=300), st.sampled_from([15, 18]))
def test_a_header_is_never_changed_but_by_what_is_left_out(text: bytes, major: int) -> None:
    assert adapt_header(text, major) == (text, [])


# What psql says


def check(expected: dict[str, int] | None = None, text: bytes = SMALL) -> CopyCheck:
    load = LoadText(restricted=True)
    load.feed(text)
    load.finish()
    return CopyCheck(load, counted(text) if expected is None else expected)


ANSWERS = b"SET\nSET\n\nCREATE TABLE\nCOPY 2\nALTER TABLE\nCOPY 3\n token\n"


@given(cuts)
def test_the_right_counts_are_right_however_they_arrive(at: list[int]) -> None:
    checked = check()
    assert [checked.feed(piece) for piece in pieces(ANSWERS, at)] == [None] * (len(at) + 1)
    assert checked.finish() is None


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        (b"COPY 2\nCOPY 2\n", "table public.targets has 2 rows, and should have 3"),
        (b"COPY 2\nCOPY 4\n", "table public.targets has 4 rows, and should have 3"),
        (b"COPY 2\nCOPY 3\nCOPY 0\n", "psql loaded more tables than it was given"),
    ],
)
def test_a_count_that_differs_is_told_as_it_arrives(answers: bytes, problem: str) -> None:
    assert check().feed(answers) == problem


@pytest.mark.parametrize("answers", [b"", b"COPY 2\n", b"COPY 2\nCOPY 3"])
def test_a_table_that_psql_never_reported_is_told_at_the_end(answers: bytes) -> None:
    checked = check()
    assert checked.feed(answers) is None
    assert checked.finish() == f"psql loaded {answers.count(bytes([10]))} tables of the 2 that it was given"


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        (
            {"public.django_migrations": 2, "public.targets": 4},
            "table public.targets has 3 rows, and should have 4",
        ),
        (
            {"public.django_migrations": 2, "public.targets": 3, "public.lost": 1},
            "table public.lost has 0 rows, and should have 1",
        ),
    ],
)
def test_fewer_rows_than_the_manifest_says_are_told_at_the_end(expected: dict[str, int], problem: str) -> None:
    checked = check(expected)
    assert checked.feed(ANSWERS) is None
    assert checked.finish() == problem


@pytest.mark.parametrize("expected", [{"public.django_migrations": 1, "public.targets": 3}, {"public.targets": 3}])
def test_more_rows_than_the_manifest_says_are_told_at_once(expected: dict[str, int]) -> None:
    assert "public.django_migrations has 2 rows" in str(check(expected).feed(ANSWERS))


def test_rows_that_come_in_several_copies_of_one_table_are_added_up() -> None:
    text = dump(copy(b"t", (b"a",), [(b"1",)]) + copy(b"t", (b"a",), [(b"2",), (b"3",)]))
    checked = check({"t": 3}, text)
    assert checked.feed(b"COPY 1\nCOPY 2\n") is None
    assert checked.finish() is None


def test_a_table_without_rows_must_be_in_the_manifest_too() -> None:
    text = dump(copy(b"t", (b"a",), []))
    checked = check({"u": 0}, text)
    assert checked.feed(b"COPY 0\n") is None
    assert checked.finish() is not None


def test_a_line_that_never_ends_is_not_kept() -> None:
    checked = check()
    for _ in range(1000):
        assert checked.feed(b"x" * 10_000) is None
    assert len(checked._line) <= 64
    assert checked.feed(b"\n" + ANSWERS) is None
    assert checked.finish() is None


@given(st.binary(max_size=200))
def test_whatever_psql_says_checking_it_never_fails(answers: bytes) -> None:
    checked = check()
    checked.feed(answers)
    checked.finish()


def test_more_tables_than_can_be_remembered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "COPIES_LIMIT", 3)
    rows = copy(b"t", (b"a",), [(b"1",)])
    assert LoadText(restricted=True).feed(dump(rows * 3 + b"SELECT 1;\n"))
    with pytest.raises(RefusedText, match="more than 3 tables"):
        LoadText(restricted=True).feed(dump(rows * 4))

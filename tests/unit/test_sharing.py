"""What several sessions may load of a dump together: which statements, in which pieces, wherever a block ends."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.dumps.loading import LoadText, Piece, adapt_header
from arcbackupd.dumps.sharing import Share, Shared, Sharing
from tests.unit.sample_dumps import HEAD, KEY, TAIL, copy

RESTRICT = re.compile(rb"\\(?:un)?restrict \w+\n")
TIMEOUT = b"SET transaction_timeout = 0;\n"


def of(*heads: bytes) -> Shared:
    """How the last of these statements may be shared."""
    sharing = Sharing()
    return [sharing.of(head) for head in heads][-1]


def add(constraint: bytes, table: bytes = b"public.t") -> bytes:
    return b"ALTER TABLE ONLY %s\n    ADD CONSTRAINT %s" % (table, constraint)


# Statements

COPY = b"COPY public.t (a) FROM stdin"
INDEX = b"CREATE INDEX i ON public.t USING btree (a)"
PRIMARY = add(b"k PRIMARY KEY (a)")
FOREIGN = add(b"k FOREIGN KEY (a) REFERENCES public.s(a)")
SHAREABLE = [COPY, INDEX, PRIMARY, FOREIGN, b"SET x = 1"]
ODD = rb'"o""d(d)"."T, (x) -- /* ;"'

SETTINGS = [
    b"SET statement_timeout = 0",
    b"SET client_encoding = 'UTF8'",
    b"SET default_tablespace = ''",
    b"SET default_table_access_method = heap",
    b"SELECT pg_catalog.set_config('search_path', '', false)",
]
LEAVES_NOTHING = [
    b"CREATE TABLE public.t (\n    a integer NOT NULL\n)", b"CREATE UNLOGGED TABLE public.t ()",
    b"CREATE FUNCTION public.f() RETURNS int\n    LANGUAGE sql AS $$ SELECT set_config('a', 'b', false) $$",
    b"CREATE TYPE public.e AS ENUM (\n    'DO'\n)",
    b"CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()",
    b"ALTER TABLE public.t OWNER TO o",
    b"ALTER TABLE ONLY public.t ALTER COLUMN a SET DEFAULT nextval('public.s'::regclass)",
    b"ALTER TABLE ONLY public.t REPLICA IDENTITY FULL", b"COMMENT ON TABLE public.t IS 'DO; CALL'",
    b"DROP TABLE IF EXISTS public.t", b"GRANT SELECT ON TABLE public.t TO r",
    b"REVOKE USAGE ON SCHEMA public FROM PUBLIC", b"REFRESH MATERIALIZED VIEW public.m",
    b"SECURITY LABEL ON TABLE public.t IS 'x'", b"SELECT pg_catalog.setval('public.s', 7, true)",
    b"SELECT pg_catalog.lo_create('16411')", b"COPY t (a) FROM stdin", b'COPY "T" ("a.b") FROM stdin',
    b"COPY public.\"o'o\" (a) FROM stdin", rb'COPY public."o\o" (a) FROM stdin',
    b"CREATE INDEX i ON t USING btree (a)", b"CREATE INDEX CONCURRENTLY i ON public.t USING btree (a)",
    rb'CREATE INDEX i ON public."o\o" USING btree (a)',
    b"ALTER TABLE public.t\n    ADD CONSTRAINT k PRIMARY KEY (a)",
    b"ALTER TABLE public.t\n    ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES public.s(a)",
    add(b"k PRIMARY KEY (a)", b"t"), add(b"k EXCLUDE USING gist (a WITH &&)"),
    add(b"k CHECK ((a > 0)) NOT VALID"), add(b"k NOT NULL a"), FOREIGN + b" NOT VALID",
    FOREIGN + b" NOT ENFORCED", FOREIGN + b" MATCH FULL", FOREIGN + b" ON DELETE SET NULL (a)",
    FOREIGN + b" DEFERRABLE NOT VALID", FOREIGN + b", ADD COLUMN b int",
    add(b"k FOREIGN KEY (a) REFERENCES s(a)"), add(b"k FOREIGN KEY (a) REFERENCES public.s"),
]  # fmt: skip
LEAVES_SOMETHING = [[head] for head in (
    b"DO $$BEGIN END$$", b"CALL public.p()", b"SELECT 1", b"SELECT public.setval('s', 1)", b"LOAD 'x'",
    b"SELECT pg_catalog.pg_sleep(1)", b"SELECT * FROM pg_catalog.pg_restore_relation_stats()",
    b"INSERT INTO public.t VALUES (1)", b"WITH x AS (SELECT 1) SELECT 1", b"PREPARE p AS SELECT 1", b"LISTEN x",
    b"LOCK TABLE public.t", b"SET LOCAL x = 1", b"SET SESSION x = 1", b"SET ROLE r", b"SET x TO 1", b"SET a.b = 1",
    b"SET SESSION AUTHORIZATION 'r'", b"SET SESSION AUTHORIZATION DEFAULT", b"RESET ALL", b"DISCARD ALL",
    b"ROLLBACK", b"COMMIT", b"START TRANSACTION", b"BEGIN WORK", b"BEGIN ISOLATION LEVEL SERIALIZABLE",
)] + [[b"BEGIN", inside, b"COMMIT"] for inside in (
    b"SET x = 1", b"SELECT pg_catalog.set_config('a', 'b', false)", b"CREATE TABLE public.t ()", COPY, b"SELECT 1",
    b"ROLLBACK", b"COMMIT AND CHAIN",
)]  # fmt: skip


@pytest.mark.parametrize("head", SETTINGS)
def test_a_setting_is_for_every_session(head: bytes) -> None:
    assert of(head) == Shared(Share.EVERYWHERE)


@pytest.mark.parametrize("head", LEAVES_NOTHING)
def test_what_else_pg_dump_writes_is_for_one_session_and_what_follows_is_shared_all_the_same(head: bytes) -> None:
    assert of(head) == Shared(Share.ALONE)
    assert all(of(head, after) == of(after) != Shared(Share.ALONE) for after in SHAREABLE)


@pytest.mark.parametrize("heads", LEAVES_SOMETHING)
def test_after_what_may_leave_something_in_the_session_nothing_is_shared(heads: list[bytes]) -> None:
    after = [*SHAREABLE, b"BEGIN", b"COMMIT", *SHAREABLE]
    sharing = Sharing()
    assert {sharing.of(head).share for head in [*heads, *after]} == {Share.ALONE}


def test_a_large_object_is_for_one_session_and_nothing_else_is_shared_until_it_is_whole() -> None:
    inside = [b"BEGIN", b"SELECT pg_catalog.lo_open('1', 131072)", rb"SELECT pg_catalog.lowrite(0, '\x00')",
              b"SELECT pg_catalog.lo_close(0)"]  # fmt: skip
    assert {of(*inside[: number + 1]).share for number in range(len(inside))} == {Share.ALONE}
    assert of(*inside, b"COMMIT") == Shared(Share.ALONE)
    assert of(*inside, b"COMMIT", COPY) == Shared(Share.COPY, b"public.t")
    assert of(*inside, COPY) == Shared(Share.ALONE)


@pytest.mark.parametrize("table", [b"public.t", b'public."T"', b'"a.b".t', b'"a b"."c.d"', "é.ü".encode(), ODD])
def test_a_table_is_told_as_the_dump_quotes_it_with_its_schema(table: bytes) -> None:
    assert of(b"COPY %s (a, %s) FROM stdin" % (table, b'"b)"')) == Shared(Share.COPY, table)
    assert of(b"COPY %s FROM stdin" % table) == Shared(Share.COPY, table)
    for index in (b"INDEX i ON", b'UNIQUE INDEX "I ON x.y (" ON', b"INDEX i ON ONLY", b"UNIQUE INDEX i ON ONLY"):
        assert of(b"CREATE %s %s USING btree (lower(a)) WHERE (a > 0)" % (index, table)) == Shared(
            Share.INDEX, table
        )
    for key in (b"PRIMARY KEY (a)", b"UNIQUE (a, b)", b"UNIQUE NULLS NOT DISTINCT (a) DEFERRABLE",
                b"PRIMARY KEY (a) INCLUDE (b)", b"PRIMARY KEY (a, b WITHOUT OVERLAPS)"):  # fmt: skip
        assert of(add(rb'"k (1)" ' + key, table)) == Shared(Share.KEY, table)


@pytest.mark.parametrize("table", [b"public.t", b'public."o\'o"', ODD])
@pytest.mark.parametrize("columns", [b"a", b"a, b", rb'"a ""(b)", "c)"', b"a, PERIOD b"])
@pytest.mark.parametrize(
    "options",
    [b"", b" ON DELETE CASCADE", b" ON UPDATE CASCADE ON DELETE SET NULL", b" ON DELETE SET DEFAULT",
     b" ON UPDATE RESTRICT DEFERRABLE", b" DEFERRABLE INITIALLY DEFERRED"],
)  # fmt: skip
def test_a_foreign_key_is_added_without_a_look_at_the_rows_and_validated_by_itself(
    table: bytes, columns: bytes, options: bytes
) -> None:
    name = rb'"k "" (1) REFERENCES"'
    head = add(b"%s FOREIGN KEY (%s) REFERENCES %s(%s)%s" % (name, columns, ODD, columns, options), table)
    validation = b"ALTER TABLE ONLY %s VALIDATE CONSTRAINT %s;\n" % (table, name)
    assert of(head) == Shared(Share.FOREIGN_KEY, table, head + b" NOT VALID;\n", validation)


@pytest.mark.parametrize(
    "relation",
    [
        b"CREATE TABLE public.p (\n    a integer\n)\nPARTITION BY RANGE (a)",
        b"CREATE TABLE public.c (\n)\nINHERITS (public.p)",
        b"ALTER TABLE ONLY public.p ATTACH PARTITION public.c FOR VALUES FROM (1) TO (2)",
        b"ALTER TABLE public.c INHERIT public.p",
        b"CREATE UNLOGGED TABLE public.c (\n)\nINHERITS (public.p)",
        b"CREATE FOREIGN TABLE public.c (\n)\nINHERITS (public.p)\nSERVER s",
    ],
)  # fmt: skip
def test_where_tables_have_parents_keys_are_for_one_session_and_rows_and_indexes_still_shared(
    relation: bytes,
) -> None:
    assert of(relation, PRIMARY) == of(relation, FOREIGN) == of(relation, COPY, PRIMARY) == Shared(Share.ALONE)
    assert of(relation, COPY).share is Share.COPY
    assert of(relation, INDEX).share is Share.INDEX


def test_a_table_without_a_schema_is_for_one_session_even_with_a_dot_in_its_name() -> None:
    assert of(b'COPY "a.b" (x) FROM stdin') == Shared(Share.ALONE)


# Hostile statements

BEGINNINGS = [
    b"", b"SET ", b"SET x", b"SELECT pg_catalog.lo_", b"COPY ", b"COPY public.t", b"COPY public.t (",
    b"CREATE TABLE x ", b"CREATE INDEX ", b"CREATE INDEX i ON public.", b"ALTER TABLE ONLY ",
    b"ALTER TABLE ONLY public.t",
    add(b""), add(b"k FOREIGN KEY ("), add(b"k FOREIGN KEY (a) REFERENCES "), FOREIGN[:-2], FOREIGN,
]  # fmt: skip
REPEATED = [
    b'"a"', b'"', b'""', b'"a" ', b'"a".', b'"a", ', b"(", b")", b"()", b" ", b"\n", b"\t ", b"a", b"a.", b"a, ",
    b"a ", b"--", b"/*", b"/**/", b"'", b"$", b" ON DELETE CASCADE", b" PARTITIO", b"\xff",
]  # fmt: skip


def seconds(head: bytes) -> float:
    begun = time.thread_time()
    of(head)
    return time.thread_time() - begun


@pytest.mark.parametrize("repeated", REPEATED)
def test_the_time_for_a_hostile_statement_grows_with_its_length_and_no_faster(repeated: bytes) -> None:
    size = 1 << 14
    for beginning in BEGINNINGS:
        short, long = (beginning + repeated * (length // len(repeated)) + b"!" for length in (size, 4 * size))
        if seconds(long) > 0.2:  # linear ones take a fiftieth of it; a slow machine gets its chance
            assert min(seconds(long) for _ in range(3)) < 8 * min(seconds(short) for _ in range(3))
    longest = repeated * ((1 << 20) // len(repeated))
    assert seconds(add(b"k FOREIGN KEY (") + longest) < 5


# Pieces


@dataclass(frozen=True)
class Part:
    """Of a dump: a statement, with its rows or what else is behind it; ``None`` for one that leaves something."""

    statement: bytes
    share: Share | None
    behind: bytes = b'\n--\n-- Name: x; it\'s "one"\n--\n\n'


def lines_of(text: bytes) -> list[Part]:
    """A header or trailer, in which all statements are settings."""
    lines = text.splitlines(keepends=True)
    shares = (Share.EVERYWHERE if line.startswith((b"SET", b"SELECT")) else Share.TEXT for line in lines)
    return [Part(line, share, b"") for line, share in zip(lines, shares, strict=True)]


def rows_of(table: bytes, rows: Sequence[bytes], share: Share = Share.COPY) -> Part:
    head, newline, behind = copy(table, (b"a",), [(row,) for row in rows]).partition(b"\n")
    return Part(head + newline, share, behind)


HEADER = lines_of(HEAD % {b"key": KEY, b"encoding": b"UTF8", b"strings": b"on"})
TRAILER = lines_of(TAIL % {b"key": KEY})
FIXED = [
    rows_of(b"public.t", [b"1", b"\\.", b"", b"two\nlines", b"SET x = 1;", COPY + b";", b"'", b"\\"]),
    rows_of(b'public."O.d, (d)"', [b"x" * 70]),
    rows_of(b"public.empty", []),
    rows_of(b"t", [b"1", b"2"], Share.ALONE),
    Part(INDEX + b";\n", Share.INDEX),
    Part(PRIMARY + b";\n", Share.KEY),
    Part(FOREIGN + b";\n", Share.FOREIGN_KEY),
    Part(b"SET default_tablespace = '';\n", Share.EVERYWHERE, b""),
    Part(b"CREATE FUNCTION public.f() LANGUAGE sql AS $_$\nSET x = 1;\n\\.\n$_$;\n", Share.ALONE),
    Part(b"SELECT pg_catalog.setval('public.s', 1, true);\n", Share.ALONE, b""),
    Part(b"\\restrict again\n", Share.TEXT, b""),
]  # fmt: skip
RICH = [*HEADER, *FIXED, *FIXED, *TRAILER]
values = st.one_of(st.binary(max_size=6), st.sampled_from([b"", b"\\.", b".", b"x" * 40]))
tables = st.builds(rows_of, st.sampled_from([b"public.t", b'"S"."u.v"']), st.lists(values, max_size=8))
bodies = st.lists(tables | st.sampled_from([*FIXED, Part(b"DO $$BEGIN END$$;\n", None)]), max_size=10)
dumps = bodies.map(lambda body: [*HEADER, *body, *TRAILER])
cuts = st.lists(st.integers(0, 1 << 20), max_size=12)


def text_of(parts: Sequence[Part]) -> bytes:
    return b"".join(part.statement + part.behind for part in parts)


def places_in(text: bytes, at: list[int]) -> list[int]:
    return [0, *sorted(cut % (len(text) + 1) for cut in at), len(text)]


def loaded(text: bytes, places: list[int], left_out: int = 0) -> tuple[LoadText, list[Piece]]:
    load = LoadText(restricted=True)
    load.leave_out(left_out)
    given = [piece for start, end in pairwise(places) for piece in load.feed(text[start:end])]
    return load, [*given, *load.finish()]


def joined(pieces: Sequence[Piece]) -> bytes:
    return b"".join(bytes(piece.text) for piece in pieces)


def expected_shares(parts: Sequence[Part], places: list[int]) -> Iterator[tuple[Share, bytes]]:
    """What is shared: each statement that no block's end is inside of, until a setting is cut."""
    position = 0
    for part in parts:
        cut = any(position < place < position + len(part.statement) for place in places)
        if part.share is None or (cut and part.share is Share.EVERYWHERE):
            return
        if not cut and part.share not in (Share.TEXT, Share.ALONE):
            yield part.share, part.statement
        position += len(part.statement + part.behind)


def check_shares(parts: Sequence[Part], places: list[int]) -> None:
    """All that may be said of pieces by themselves."""
    load, pieces = loaded(text_of(parts), places)
    passed = RESTRICT.sub(b"", text_of(parts))
    others = (Share.TEXT, Share.ALONE, Share.ROWS, Share.END_OF_ROWS)
    shared = [(piece.shared.share, bytes(piece.text)) for piece in pieces if piece.shared.share not in others]
    assert joined(pieces) == passed
    assert shared == [*expected_shares(parts, places)]
    assert sum(piece.lines for piece in pieces) == passed.count(b"\n")
    assert all(piece.lines == bytes(piece.text).count(b"\n") for piece in pieces)
    names = "".join(f"{piece.shared.share.name} " for piece in pieces)
    assert re.fullmatch(r"(?:COPY (?:ROWS )*END_OF_ROWS |(?!COPY|ROWS|END)\w+ )*", names)
    copied = [part for part in parts if part.statement.startswith(b"COPY")]
    assert [table.rows for table in load.copies] == [part.behind.count(b"\n") - 3 for part in copied]
    for part, table in zip(copied, load.copies, strict=True):
        of_copy = [piece for piece in pieces if piece.copied is table]
        if of_copy:
            assert bytes(of_copy[-1].text) == b"\\.\n"
            assert joined(of_copy) == (part.statement + part.behind).removesuffix(b"\n\n")
            assert of_copy[0].table == table.name


@settings(deadline=None)
@given(dumps, cuts)
def test_what_no_block_ends_in_is_shared_by_itself_and_the_text_stays_the_same(
    parts: list[Part], at: list[int]
) -> None:
    check_shares(parts, places_in(text_of(parts), at))


def test_every_single_place_of_a_cut_leaves_all_else_shared_but_what_it_is_in() -> None:
    text = text_of(RICH)
    for place in range(len(text) + 1):
        check_shares(RICH, [0, place, len(text)])


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_in_the_smallest_blocks_nothing_is_shared_and_the_text_is_whole(size: int) -> None:
    text = text_of(RICH)
    check_shares(RICH, [*range(0, len(text), size), len(text)])


@settings(deadline=None)
@given(dumps, cuts, st.booleans())
def test_a_piece_knows_the_lines_of_the_dump_before_it_with_those_that_are_left_out(
    parts: list[Part], at: list[int], timeout: bool
) -> None:
    original = text_of(parts)
    if timeout:
        original = original.replace(b"SET client", TIMEOUT + b"SET client", 1)
    text, left_out = adapt_header(original, 15)
    lines = enumerate(original.split(b"\n"))
    numbers = [number for number, line in lines if not RESTRICT.match(line + b"\n") and line + b"\n" != TIMEOUT]
    before, adapted_header = b"", RESTRICT.sub(b"", text).index(b"SET client")
    for piece in loaded(text, places_in(text, at), len(left_out))[1]:
        if not timeout or len(before) >= adapted_header:
            assert piece.line == numbers[before.count(b"\n")]
        before += bytes(piece.text)


# Two sessions


def in_two_sessions(pieces: Sequence[Piece], random: Random) -> tuple[bytes, bytes]:
    """What each is given: rows go on to the other one only behind a newline."""
    given = [b"", b""]
    copying, turn = [0], 0
    for piece in pieces:
        text, share = bytes(piece.text), piece.shared.share
        match share:
            case Share.COPY | Share.END_OF_ROWS | Share.EVERYWHERE:
                if share is Share.COPY:
                    copying, turn = ([0, 1], 0) if random.random() < 0.8 else ([0], 0)
                for number in [0, 1] if share is Share.EVERYWHERE else copying:
                    given[number] += text
            case Share.ROWS:
                end = text.rfind(b"\n") + 1
                given[turn] += text[:end]
                turn = random.choice(copying) if end else turn
                given[turn] += text[end:]
            case Share.INDEX | Share.KEY:
                given[random.randrange(2)] += text
            case Share.FOREIGN_KEY:
                given[0] += piece.shared.unvalidated
                given[random.randrange(2)] += piece.shared.validation
            case _:
                given[0] += text
    return given[0], given[1]


def taken_apart(text: bytes) -> tuple[list[bytes], Counter[tuple[bytes, bytes]]]:
    """The lines outside of rows, and the rows per COPY, as psql would see them."""
    lines, outside, rows, number = text.split(b"\n"), list[bytes](), Counter[tuple[bytes, bytes]](), 0
    while number < len(lines):
        line = lines[number]
        outside.append(line)
        number += 1
        if line.startswith(b"COPY "):
            end = lines.index(b"\\.", number)
            rows.update((line, row) for row in lines[number:end])
            number = end + 1
    return outside, rows


@settings(deadline=None)
@given(dumps, cuts, st.randoms(use_true_random=False))
def test_what_two_sessions_are_given_is_well_formed_and_together_the_dump(
    parts: list[Part], at: list[int], random: Random
) -> None:
    text = text_of(parts)
    first, second = in_two_sessions(loaded(text, places_in(text, at))[1], random)
    (own, rows), (others, more) = taken_apart(first), taken_apart(second)
    whole, all_rows = taken_apart(RESTRICT.sub(b"", text))
    assert rows + more == all_rows
    assert [line for line in own if line.startswith((b"COPY", b"CREATE F", b"--"))] == [
        line for line in whole if line.startswith((b"COPY", b"CREATE F", b"--"))
    ]
    of_helper = (
        b"COPY ",
        b"SET ",
        b"SELECT pg_catalog.set_config",
        b"CREATE INDEX",
        b"ALTER TABLE ONLY",
        b"    ADD",
    )
    assert all(line.startswith(of_helper) for line in others if line)
    for load_text in (first, second):  # the lexer finds neither half a statement nor rows without an end
        load, pieces = loaded(load_text, [0, len(load_text)])
        assert joined(pieces) == load_text
        assert load.rows == (rows if load_text is first else more).total()

"""Loading by two sessions at the same time, on real servers: the same database comes of it as by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from arcbackupd.dumps.manifest import Contents
from arcbackupd.operations.restore.sessions import LARGE_ROWS
from tests.integration.stand import MAJORS, Stand, write
from tests.unit.sample_dumps import copy, dump

pytestmark = pytest.mark.postgres

ROWS = 3 * LARGE_ROWS
OBSERVATORY = f"""
    CREATE TABLE targets (id int PRIMARY KEY, name text NOT NULL UNIQUE);
    INSERT INTO targets SELECT i, 'target ' || i FROM generate_series(1, 100) i;
    CREATE TABLE frames (id bigint, target int NOT NULL, note text, day date, CHECK (id > 0));
    INSERT INTO frames SELECT i, 1 + i % 100, E'\\\\\\n\\t\\\\.é ' || md5(i::text), date '2020-01-01' + i % 900
        FROM generate_series(1, {ROWS}) i;
    CREATE TABLE "Odd.Name (x)" (id int, long text);
    INSERT INTO "Odd.Name (x)" SELECT i, CASE i WHEN 77 THEN repeat('x', 3000000) END
        FROM generate_series(1, {LARGE_ROWS}) i;
    ALTER TABLE frames ADD PRIMARY KEY (id), ADD UNIQUE (note);
    ALTER TABLE "Odd.Name (x)" ADD PRIMARY KEY (id);
    CREATE INDEX frames_day ON frames (day);
    CREATE INDEX frames_expression ON frames (lower(note)) WHERE id > 5;
    CREATE INDEX odd ON "Odd.Name (x)" (id DESC);
    COMMENT ON INDEX odd IS 'in between';
    ALTER TABLE frames ADD CONSTRAINT to_target FOREIGN KEY (target) REFERENCES targets ON DELETE CASCADE
        DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE "Odd.Name (x)" ADD CONSTRAINT "to (frame)" FOREIGN KEY (id) REFERENCES frames;
    ALTER TABLE frames ADD CONSTRAINT later FOREIGN KEY (target) REFERENCES targets NOT VALID;
    CREATE VIEW per_target AS SELECT target, count(*) FROM frames GROUP BY 1;
"""
SESSIONS_OF = "SELECT count(DISTINCT xmin::text) FROM {}"
INVALID = "SELECT string_agg(conname, ',') FROM pg_constraint WHERE NOT convalidated"
SCHEMA = """
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT obj_description(oid) FROM pg_class) AS lines (line)
"""
NUMBERS = [(str(number).encode(), b"x" * 20) for number in range(1, ROWS + 1)]
TABLE = b"CREATE TABLE public.t (a int, b text);\n"
PARTITIONED = b"""CREATE TABLE public.t (a int, b text) PARTITION BY LIST (b);
CREATE TABLE public.u PARTITION OF public.t DEFAULT;
"""
TRIGGER = b"""CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
"""
REFERENCE = b"""CREATE TABLE public.s (a int PRIMARY KEY);
ALTER TABLE ONLY public.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES public.s(a);
"""


@pytest.fixture(name="stand")
def _stand(make_stand: Callable[..., Stand]) -> Stand:
    return make_stand(jobs=2)


def by_hand(before: bytes = TABLE, after: bytes = b"", rows: Sequence[tuple[bytes, ...]] = NUMBERS) -> bytes:
    return dump(before + copy(b"public.t", (b"a", b"b"), rows) + after)


def loaded(stand: Stand, text: bytes) -> str:
    """Restore a dump; tell by how many sessions its table was loaded."""
    assert stand.restore(write(stand, text)).outcome == "restored"
    assert stand.sql("SELECT count(*) FROM public.t") == str(ROWS)
    return stand.sql(SESSIONS_OF.format("public.t"))


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_whatever_the_number_of_sessions_the_same_database_comes_of_it(
    make_stand: Callable[..., Stand], major: int, jobs: int
) -> None:
    stand = make_stand(major, jobs=jobs)
    stand.sql(OBSERVATORY)
    expected = stand.contents(), stand.sql(SCHEMA), stand.sql(INVALID)
    name = stand.take()
    stand.sql('DROP TABLE frames, "Odd.Name (x)", targets CASCADE')
    report = stand.restore(name)
    assert (report.outcome, report.problem) == ("restored", None)
    assert (stand.contents(), stand.sql(SCHEMA), stand.sql(INVALID)) == expected
    assert stand.sql(INVALID) == "later"
    assert stand.sql(SESSIONS_OF.format("frames")) == str(jobs)
    assert stand.sql(SESSIONS_OF.format("targets")) == "1"


def test_settings_in_the_middle_of_a_dump_hold_in_all_sessions(stand: Stand) -> None:
    days = [(b"%02d.12.2026" % (1 + number % 31), b"") for number in range(ROWS)]
    table = b"CREATE TABLE public.t (a date, b text);\nSET datestyle = 'German';\n"
    assert loaded(stand, by_hand(table, rows=days)) == "2"
    assert stand.sql("SELECT min(a), max(a), count(DISTINCT a) FROM public.t") == "2026-12-01|2026-12-31|31"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"CREATE TABLE public.t (a int PRIMARY KEY, b text);\n", b""),
        (TABLE + b"CREATE INDEX i ON public.t USING btree (a);\n", b""),
        (TABLE + b"CREATE RULE r AS ON INSERT TO public.t DO ALSO NOTIFY x;\n", b""),
        (TABLE + TRIGGER, b""),
        (PARTITIONED, b""),
        (b"BEGIN;\n" + TABLE, b"COMMIT;\n"),
        (TABLE + b"BEGIN;\nALTER TABLE public.t ADD COLUMN c int;\n", b"COMMIT;\n"),
        (b"DO $$BEGIN PERFORM 1; END$$;\n" + TABLE, b""),
        (b"SET SESSION AUTHORIZATION DEFAULT;\n" + TABLE, b""),
    ],
)
def test_where_two_sessions_might_wait_for_each_other_or_differ_one_loads_alone(
    stand: Stand, before: bytes, after: bytes
) -> None:
    table = "public.u" if b"PARTITION" in before else "public.t"
    assert loaded(stand, by_hand(before, after)) == "1" or table == "public.u"
    assert stand.sql(SESSIONS_OF.format(table)) == "1"


@pytest.mark.parametrize("place", [3, ROWS // 2, ROWS - 3])
def test_a_row_that_does_not_fit_is_an_error_wherever_it_is(stand: Stand, place: int) -> None:
    rows = [*NUMBERS]
    rows[place] = (b"no number", b"")
    name = write(stand, by_hand(rows=rows))
    with stand.untouched("load-failed") as caught:
        stand.restore(name)
    assert "no number" in caught[0].message
    assert not stand.sql("SELECT pid FROM pg_stat_activity WHERE application_name ~ '^arcbackupd-load'")


def test_an_error_after_shared_rows_is_told_with_its_line_in_the_dump(stand: Stand) -> None:
    text = by_hand(after=b"SELECT 1;\nSELECT 1 / 0;\n")
    line = text[: text.index(b"SELECT 1 / 0")].count(b"\n") + 1
    name = write(stand, text)
    with stand.untouched("load-failed") as caught:
        stand.restore(name)
    assert f"division by zero at line {line} of its SQL" in caught[0].message


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (b"ALTER TABLE ONLY public.t ADD CONSTRAINT k PRIMARY KEY (b);\n", "could not create unique index"),
        (b"CREATE UNIQUE INDEX i ON public.t USING btree (b);\n", "could not create unique index"),
        (REFERENCE, "violates foreign key constraint"),
    ],
)
def test_a_key_that_the_rows_break_is_an_error(stand: Stand, statement: bytes, problem: str) -> None:
    index = b"CREATE INDEX %s ON public.t USING btree (a);\n"
    text = by_hand(after=index % b"before" + statement + index % b"after")
    line = text[: text.index(b" k " if b" k " in text else b" i ")].count(b"\n") + 1
    name = write(stand, text)
    with stand.untouched("load-failed") as caught:
        stand.restore(name)
    assert problem in caught[0].message
    assert f"at line {line} of its SQL" in caught[0].message


def test_fewer_rows_than_the_manifest_says_are_an_error_however_they_were_shared(stand: Stand) -> None:
    text = by_hand()
    name = write(stand, text, contents=Contents(rows={"public.t": ROWS + 1}))
    with stand.untouched("rows-differ") as caught:
        stand.restore(name)
    assert f"{ROWS:,}" in caught[0].message


def test_a_setting_between_indexes_holds_for_those_behind_it_and_for_no_other(stand: Stand) -> None:
    index = b"CREATE INDEX i%d ON public.t USING btree (a);\n"
    after = b"".join([
        index % 1, index % 2, b"SET default_tablespace = pg_global;\n", b"SET default_tablespace = '';\n",
        index % 3, b"SET default_tablespace = pg_global;\n", index % 4, index % 5,
    ])  # fmt: skip
    text = by_hand(after=after)
    line = text[: text.index(b"INDEX i4")].count(b"\n") + 1
    name = write(stand, text)
    with stand.untouched("load-failed") as caught:
        stand.restore(name)
    assert "only shared relations can be placed in pg_global" in caught[0].message
    assert any(f"at line {line + more} of its SQL" in caught[0].message for more in (0, 1))
    assert loaded(stand, by_hand(after=after.replace(b"pg_global", b"pg_default"))) == "2"


def test_what_goes_on_in_the_next_block_is_not_interrupted_by_what_was_held_back(stand: Stand) -> None:
    """Blocks end anywhere in what follows the rows: in statements, comments, strings and parentheses."""
    part = (
        b"-- Name: a comment %d; Type: INDEX; Schema: public; Owner: somebody\n--\n\n"
        b"CREATE INDEX i%d ON public.t USING btree (a);\n\n"
        b"COMMENT ON INDEX public.i%d IS 'what it is for %d; " + b"and more of it " * 40 + b"';\n\n"
    )
    after = b"".join(part % (number, number, number, number) for number in range(12))
    filler = b"COMMENT ON TABLE public.t IS '" + b"x" * 20_000 + b"';\n"
    for shift in range(0, 4000, 1000):
        assert loaded(stand, by_hand(after=b"-- " + b"y" * shift + b"\n" + filler * 11 + after)) == "2"
        assert stand.sql("SELECT count(*) FROM pg_indexes WHERE tablename = 't'") == "12"

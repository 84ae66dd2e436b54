"""``.env`` as Docker Compose reads it; whatever is wrong with it, no value ever shows."""

from __future__ import annotations

import traceback
from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from arcbackupd.dotenv import DotenvError, parse_dotenv

SECRET = "hunter2-S3cr3t"


def read(text: str, **environment: str) -> dict[str, str]:
    return parse_dotenv(text, environment)


def value(text: str, **environment: str) -> str:
    return read(f"A={text}", **environment)["A"]


# What Compose documents


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("  plain  ", "plain"),
        ("with space inside", "with space inside"),
        ("plain # a comment", "plain"),
        ("plain#no comment", "plain#no comment"),
        ("# nothing but a comment", "# nothing but a comment"),
        ("'single'", "single"),
        ("'single # no comment'", "single # no comment"),
        ("'single' # a comment", "single"),
        ("'$NOT ${EXPANDED} \\n'", "$NOT ${EXPANDED} \\n"),
        (r"'it\'s'", "it's"),
        ('"double"', "double"),
        ('"double # no comment"', "double # no comment"),
        ('"double" # a comment', "double"),
        (r'"a\nb\tc\\d\"e"', 'a\nb\tc\\d"e'),
        (r'"\$X \x"', "$X \\x"),
        ('"it\'s"', "it's"),
        ("'say \"x\"'", 'say "x"'),
        ("'two\nlines'", "two\nlines"),
        ('"two\nlines"', "two\nlines"),
        ("a=b=c", "a=b=c"),
        ("http://x:y@z", "http://x:y@z"),
        ("''", ""),
        ('""', ""),
        ("pa'ss", "pa'ss"),
        ("$", "$"),
        ("a$", "a$"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("a$$b", "a$b"),
        ("$1", "$1"),
        ("$X", "set"),
        ("${X}", "set"),
        ("${X}y", "sety"),
        ("$Xy", ""),
        ("$EMPTY", ""),
        ("$UNSET", ""),
        ("${UNSET:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${UNSET-x}", "x"),
        ("${X:-x}", "set"),
        ("${X:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${UNSET:-${X}}", "set"),
        ("${UNSET:-${ALSO_UNSET:-deep}}", "deep"),
        ("${UNSET:-}", ""),
        ("${X:?must be}", "set"),
        ('"${X} and $$"', "set and $"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_compose_reads_it(line: str, expected: str) -> None:
    assert value(line, X="set", EMPTY="") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n  \n# only a comment\n", {}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("export A=1\nexport  B='2'", {"A": "1", "B": "2"}),
        ("A: 1\nB : 2", {"A": "1", "B": "2"}),
        (" A = 1", {"A": "1"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=1\nB=$A\nC=${B}2", {"A": "1", "B": "1", "C": "12"}),
        ("B=$A\nA=1", {"B": "", "A": "1"}),
        ("A='x'\n\nB=y # c\n#C=z", {"A": "x", "B": "y"}),
        ("a.b-c[0]=1", {"a.b-c[0]": "1"}),
        ("INHERITED\nNOT_THERE\nA=1", {"INHERITED": "yes", "A": "1"}),
        ("A=${INHERITED}", {"A": "yes"}),
        ("INHERITED=no\nA=$INHERITED", {"INHERITED": "no", "A": "yes"}),
    ],
)  # fmt: skip
def test_a_file_is_read_as_compose_reads_it(text: str, expected: dict[str, str]) -> None:
    assert read(text, INHERITED="yes") == expected


# What is wrong


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"A='{SECRET}", 1),
        (f'OK=1\nA="{SECRET}\nB=2', 2),
        (f"\n\nA={SECRET}${{X", 3),
        (f"A=${{X!{SECRET}}}", 1),
        (f"A=${{{SECRET[-1]} {SECRET}}}", 1),
        ("A=${}", 1),
        (f"A=${{UNSET:?{SECRET}}}", 1),
        (f"A=${{UNSET?{SECRET}}}", 1),
        (f"{SECRET} {SECRET}=x", 1),
        (f"!{SECRET}=x", 1),
        (f"PASSWORD {SECRET}\n", 1),
        (f"A='ok' {SECRET} x", 1),
    ],
)
def test_what_is_wrong_says_the_line_and_never_a_value(text: str, line: int) -> None:
    with pytest.raises(DotenvError) as caught:
        read(text)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert str(caught.value).startswith(f"line {line}: ")
    assert SECRET not in told


# Properties

PASSWORDS = st.text(st.characters(blacklist_categories=["Cs"]))


def backslashes_before_a_quote_come_in_pairs(text: str) -> bool:
    """What single quotes can hold at all: Compose takes a backslash before a quote for an escape."""
    runs = [len(run) - len(run.rstrip("\\")) for run in text.split("'")]
    return all(count % 2 == 0 for count in runs)


@example('$HOME ${X} $$ # " \n\\n')
@example("a\\\\'b")
@settings(deadline=None)
@given(PASSWORDS)
def test_any_password_written_in_single_quotes_comes_back_exact(password: str) -> None:
    assume(backslashes_before_a_quote_come_in_pairs(password))
    written = "'" + password.replace("'", "\\'") + "'"
    assert read(f"B=1\nA={written}\nC=2") == {"B": "1", "A": password, "C": "2"}


@example("$HOME ${X} $$ # ' \" \\ \n\\n\\")
@settings(deadline=None)
@given(PASSWORDS)
def test_any_password_escaped_in_double_quotes_comes_back_exact(password: str) -> None:
    written = password.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    assert read(f'B=1\nA="{written}"\nC=2') == {"B": "1", "A": password, "C": "2"}


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_.,:;/+*@%!?~^()\[\]<>|&=-]*", fullmatch=True))
def test_any_password_without_special_characters_needs_no_quotes(password: str) -> None:
    assert value(password) == password


GARBAGE = st.lists(
    st.sampled_from([*"A=:'\"}?+# \n\\\r\x85\xa0\0é", "${", ":-", "export "]),
).map("".join)


@settings(deadline=None)
@given(st.one_of(st.text(), GARBAGE), st.dictionaries(st.sampled_from("AB"), st.text(max_size=5)))
def test_garbage_never_crashes_it(text: str, environment: dict[str, str]) -> None:
    with suppress(DotenvError):
        read(text, **environment)


@settings(deadline=None)
@given(GARBAGE, GARBAGE)
def test_garbage_around_a_secret_never_shows_it(before: str, after: str) -> None:
    try:
        read(f"{before}{SECRET}{after}")
    except DotenvError as error:
        told = "".join(traceback.format_exception(error)) + repr(error)
        assert SECRET not in told  # it needn't be wrong


@pytest.mark.parametrize(
    "text", ["${A:-" * 50_000, "$" * 200_001, "'\\" * 100_000, "\\" * 200_000, "#\n" * 100_000]
)
def test_hostile_texts_take_no_time_and_no_stack(text: str) -> None:
    for quote in ("", '"'):
        with suppress(DotenvError):
            read(f"A={quote}{text}{quote}")


@pytest.mark.parametrize("depth", [10, 50])
def test_defaults_within_defaults_are_read(depth: int) -> None:
    assert value("${U:-" * depth + "x" + "}" * depth) == "x"


@pytest.mark.parametrize("depth", [51, 100_000])
def test_defaults_within_defaults_end_somewhere(depth: int) -> None:
    with pytest.raises(DotenvError, match=r"line 1: .* too many of them"):
        read("A=" + "${U:-" * depth + "x" + "}" * depth)


def test_values_that_double_one_another_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(DotenvError, match=r"line 2\d: the values that are put in for \$… are too long"):
        read("A=x\n" + "A=$A$A\n" * 60)


def test_values_may_be_as_long_as_a_program_s_environment() -> None:
    assert read("A=" + "x" * 131_000 + "\n" + "B=$A\n" * 30)["B"] == "x" * 131_000

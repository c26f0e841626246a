"""什么样的是一个人的 id。"""

from __future__ import annotations

import pytest

from meeting_push.person_id import MAX_INTEGER, PersonId, PersonIds, path_segment

INTEGERS = PersonIds()
STRINGS = PersonIds(strings=True)
ALWAYS = PersonIds(strings=True, always=True)
UUID = "6f1c1a9e-2b0f-4c55-9f5e-0d6a3f1b2c3d"


@pytest.mark.parametrize(
    ("given", "person"),
    [
        (5, 5),
        ("5", 5),
        (MAX_INTEGER, MAX_INTEGER),
        (str(MAX_INTEGER), MAX_INTEGER),
        (str(MAX_INTEGER + 1), str(MAX_INTEGER + 1)),
        ("9" * 64, "9" * 64),
        ("05", "05"),
        ("0", "0"),
        ("-5", "-5"),
        ("5.0", "5.0"),
        ("1e3", "1e3"),
        (UUID, UUID),
        ("ann@example.org", "ann@example.org"),
        ("a~b:c+d_e-f.g", "a~b:c+d_e-f.g"),
        ("x" * 64, "x" * 64),
    ],
)
def test_a_decimal_is_an_integer_and_the_rest_of_the_grammar_is_a_string(
    given: object, person: PersonId
) -> None:
    assert STRINGS.read(given) == person
    assert type(STRINGS.read(given)) is type(person)


@pytest.mark.parametrize(
    "given",
    [
        *(0, -5, MAX_INTEGER + 1, 2**64, 5.0, True, False, None, [], "", "x" * 65, "a b", "a/b"),
        *("a\n", "5\n", "é", "５", "a%41", "a\x00", "a#b", "a?b", "{a}", "a,b"),
    ],
)
def test_anything_else_is_no_id(given: object) -> None:
    assert STRINGS.read(given) is None
    assert ALWAYS.read(given) is None
    assert INTEGERS.read(given) is None


@pytest.mark.parametrize("given", [UUID, "05", "0", "-5", str(MAX_INTEGER + 1), "5.0"])
def test_where_the_accounts_are_ours_only_integers_are_ids(given: str) -> None:
    assert INTEGERS.read(given) is None
    assert INTEGERS.read("5") == 5


@pytest.mark.parametrize("given", [5, "5"])
def test_numbers_can_be_kept_as_strings(given: object) -> None:
    assert ALWAYS.read(given) == "5"


@pytest.mark.parametrize("person", ["ann@example.org", "a:b+c", UUID, "~"])
def test_a_path_carries_it_percent_encoded_or_plain(person: str) -> None:
    assert STRINGS.in_path(path_segment(person)) == person
    assert STRINGS.in_path(person) == person


@pytest.mark.parametrize("segment", ["a%2Fb", "a%00", "%", "%zz", "%ff", "a%0A"])
def test_what_is_encoded_badly_in_a_path_is_no_id(segment: str) -> None:
    assert STRINGS.in_path(segment) is None

"""一段字只有一个号。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.errors import PeopleLimitError
from meeting_push.person_id import NOBODY
from meeting_push.storage.database import Database
from meeting_push.storage.people import DAY_MS, PeopleRepository


@pytest.fixture
def people(database: Database) -> PeopleRepository:
    return PeopleRepository(database)


async def test_a_string_keeps_its_number(people: PeopleRepository) -> None:
    first = await people.add(["ann", "bob"], 1)
    assert await people.add(["bob", "cid"], 2) == {
        "bob": first["bob"],
        "cid": (await people.numbers(["cid"]))["cid"],
    }
    assert await people.numbers(["ann", "bob", "nobody"]) == first
    assert await people.persons([*first.values(), NOBODY]) == {n: p for p, n in first.items()}


async def test_no_number_is_an_integer_somebody_may_have(people: PeopleRepository) -> None:
    numbers = (await people.add(["ann", "5", str(2**53 + 1)], 1)).values()
    assert all(NOBODY < number < 2**63 for number in numbers)
    assert len(set(numbers)) == 3


async def test_those_who_differ_in_case_only_are_different_people(
    people: PeopleRepository,
) -> None:
    found = await people.add(["Ann", "ann", "ANN"], 1)
    assert len(set(found.values())) == 3
    assert await people.numbers(["aNN"]) == {}


async def test_those_who_learn_the_same_at_once_get_one_number(
    people: PeopleRepository, database_url: str
) -> None:
    other = Database(database_url)
    names = [f"user-{n}" for n in range(50)]
    both = [people, PeopleRepository(other)] * 4
    found = await asyncio.gather(
        *(each.add(names if n % 2 else names[::-1], n) for n, each in enumerate(both))
    )
    await other.dispose()
    assert all(one == found[0] for one in found)


async def test_ten_thousand_are_learnt_at_once(people: PeopleRepository) -> None:
    names = [f"user-{n}" for n in range(10_000)]
    found = await people.add(names, 1)
    assert len(set(found.values())) == 10_000
    assert await people.numbers(names) == found


async def test_one_user_brings_so_many_new_people_a_day(people: PeopleRepository) -> None:
    await people.add(["a", "b"], 1, by=7, most_a_day=3)
    with pytest.raises(PeopleLimitError) as refused:
        await people.add(["c", "d"], 2, by=7, most_a_day=3)
    assert "people" in str(refused.value.details)
    assert await people.numbers(["c", "d"]) == {}  # 一个也没有认下
    await people.add(["c", "d"], 2, by=8, most_a_day=3)
    await people.add(["e", "f", "g"], 1 + DAY_MS, by=7, most_a_day=3)


async def test_the_newest_are_told(people: PeopleRepository) -> None:
    for name in ("a", "b", "c"):
        await people.add([name], 1)
    assert list(await people.newest(2)) == ["b", "c"]

"""对外的 id 与内里的号：记着的不问，不认识的一起问。"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from meeting_push.errors import InvalidInputError, PeopleLimitError, UnknownRecipientsError
from meeting_push.people.people import Bringer, Existing, People
from meeting_push.person_id import NOBODY, PersonId, PersonIds
from meeting_push.storage.database import Database
from meeting_push.storage.people import PeopleRepository

STRINGS = PersonIds(strings=True)


class Counted(PeopleRepository):
    """真的仓库，数着问了几次。"""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked: list[str] = []

    async def numbers(self, persons: Collection[str]) -> dict[str, int]:
        self.asked.append("numbers")
        return await super().numbers(persons)

    async def persons(self, numbers: Collection[int]) -> dict[int, str]:
        self.asked.append("persons")
        return await super().persons(numbers)

    async def add(
        self, persons: Collection[str], now: int, by: int | None = None, most_a_day: int = 0
    ) -> dict[str, int]:
        self.asked.append("add")
        return await super().add(persons, now, by, most_a_day)


@pytest.fixture
def record(database: Database) -> Counted:
    return Counted(database)


def people_of(
    record: PeopleRepository, existing: Existing | None = None, most_known: int = 1000
) -> People:
    return People(STRINGS, record, existing, most_known=most_known, clock=lambda: 1)


async def test_integers_cost_nothing(record: Counted) -> None:
    people = people_of(record)
    given = [1, 2**53 - 1]
    assert await people.numbers(given) is given
    assert await people.persons(given) == {1: 1, 2**53 - 1: 2**53 - 1}
    assert record.asked == []


async def test_five_and_its_digits_are_one_person(record: Counted) -> None:
    assert await people_of(record).numbers(["5", 5]) == [5, 5]
    assert record.asked == []


async def test_who_is_known_is_not_asked_for_again(record: Counted) -> None:
    people = people_of(record)
    number = await people.number("ann")
    record.asked.clear()
    assert await people.number("ann") == number > NOBODY
    assert await people.numbers(["ann", 5]) == [number, 5]
    assert await people.find("ann") == number
    assert people.person(number) == "ann"
    assert await people.persons([number]) == {number: "ann"}
    assert record.asked == []


async def test_all_the_unknown_of_one_turn_are_asked_for_together(record: Counted) -> None:
    people = people_of(record)
    found = await asyncio.gather(*(people.number(f"user-{n}") for n in range(100)))
    assert len(set(found)) == 100
    assert record.asked == ["numbers", "add"]
    record.asked.clear()
    again = people_of(record)
    assert await asyncio.gather(*(again.number(f"user-{n}") for n in range(100))) == found
    assert record.asked == ["numbers"]


async def test_ten_thousand_unknown_of_one_request_are_one_question(record: Counted) -> None:
    people = people_of(record, most_known=100_000)
    names = [f"user-{n}" for n in range(5_000)]
    first, second = await people.each_number([names, names[::-1]])
    assert list(first) == list(second)[::-1]
    assert record.asked == ["numbers", "add"]


async def test_what_is_remembered_is_bounded(record: Counted) -> None:
    people = people_of(record, most_known=10)
    names = [f"user-{n}" for n in range(50)]
    numbers = await people.numbers(names)
    assert len(people._numbers) == len(people._persons) == 10
    shown = await people.persons(numbers)
    assert [shown[number] for number in numbers] == names
    assert await people.numbers(names) == numbers


async def test_asking_about_somebody_does_not_bring_him(record: Counted) -> None:
    people = people_of(record)
    assert await people.find("ann") == NOBODY
    assert "add" not in record.asked
    assert people.person(NOBODY) == NOBODY


async def test_a_directory_says_who_does_not_exist(record: Counted) -> None:
    async def existing(ids: Sequence[PersonId]) -> set[PersonId]:
        return {one for one in ids if one in ("ann", 5)}

    people = people_of(record, existing)
    with pytest.raises(UnknownRecipientsError) as refused:
        await people.numbers(["ann", "bob", 5, 6])
    assert refused.value.details == {"user_ids": ["bob", 6]}
    assert await people.find("bob") == NOBODY
    assert len(await people.numbers(["ann", 5])) == 2


async def test_a_user_brings_only_so_many(record: Counted) -> None:
    people = people_of(record)
    await people.numbers(["a", "b"], Bringer(7, 2))
    with pytest.raises(PeopleLimitError):
        await people.numbers(["c"], Bringer(7, 2))
    await people.numbers(["a", "b"], Bringer(7, 2))
    await people.number("c")  # 自己来的不数


@pytest.mark.parametrize("given", [0, -1, 2**53, "", "a b", "a\n", "x" * 65, True, 5.0, None])
async def test_what_is_no_id_is_refused(record: Counted, given: object) -> None:
    people = people_of(record)
    with pytest.raises(InvalidInputError):
        await people.numbers([5, given])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError):
        await people.number(given)
    assert record.asked == []


async def test_those_known_before_are_known_at_start(record: Counted) -> None:
    number = await people_of(record).number("ann")
    people = people_of(record)
    await people.start()
    record.asked.clear()
    assert await people.number("ann") == number
    assert record.asked == []


async def test_one_who_is_gone_is_shown_by_the_number(record: Counted) -> None:
    assert await people_of(record).persons([NOBODY + 99]) == {NOBODY + 99: str(NOBODY + 99)}


async def test_numbers_kept_as_strings_get_numbers_of_their_own(record: Counted) -> None:
    people = People(PersonIds(strings=True, always=True), record)
    [five, text] = await people.numbers([5, "5"])
    assert five == text > NOBODY
    assert people.person(five) == "5"

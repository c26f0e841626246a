"""谁看得见谁的名字：名册说了算，账号归我们时要一字不差；找得太勤的等一等。"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from meeting_push.errors import RateLimitedError
from meeting_push.model import KeyPrincipal, Principal, Sender
from meeting_push.people.names import FINDS_BURST, FINDS_PER_S, AccountNames, Named, Names
from meeting_push.person_id import PersonId
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database

ANN = Principal.of(1, issued_at=0, expires_at=1)
ADMIN = Principal.of(9, "admin", issued_at=0, expires_at=1)
CALLED = {1: "Ann", 2: "Ben", 3: "Carl"}


class Book:
    """1 看得见 2，看不见 3。"""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def called(self, persons: Collection[PersonId]) -> Named:
        self.asked.append("called")
        return {one: CALLED[one] for one in persons if one in CALLED}

    async def seen(self, viewer: PersonId, persons: Collection[PersonId]) -> Named:
        self.asked.append("seen")
        return {2: "Ben"} if viewer == 1 and 2 in persons else {}

    async def find(self, viewer: PersonId, text: str) -> Named:
        self.asked.append(text)
        return {2: "Ben"} if viewer == 1 and text == "be" else {}


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def names(book: Book) -> Names:
    return Names(book.called, book, clock=lambda: 1)


def key(*scopes: str) -> KeyPrincipal:
    return KeyPrincipal(-4, "key", 0, 1, scopes=frozenset(scopes))  # type: ignore[arg-type]


async def test_who_wrote_without_a_name_is_named_in_one_question(names: Names, book: Book) -> None:
    given = [Sender(2, ""), Sender(1, "as it was"), Sender(None, ""), Sender(8, ""), Sender(2, "")]
    signed = await names.signed(given)
    assert [one.name for one in signed] == ["Ben", "as it was", "", "", "Ben"]
    assert book.asked == ["called"]
    assert await names.signed([Sender(1, "x"), Sender(None, "")]) == [
        Sender(1, "x"),
        Sender(None, ""),
    ]
    assert book.asked == ["called"], "everybody said his name: nothing to ask"


async def test_a17_of_those_he_wrote_to_he_sees_whom_the_directory_shows_him(
    names: Names, book: Book
) -> None:
    assert await names.of_readers(ANN, [1, 2, 3]) == {2: "Ben"}
    assert book.asked == ["seen"]
    assert await names.of_readers(ANN, []) == {}
    assert await Names(book.called).of_readers(ANN, [1, 2, 3]) == {}


async def test_who_sees_every_delivery_sees_every_name(names: Names) -> None:
    assert await names.of_readers(ADMIN, [1, 2, 3]) == CALLED
    assert await names.of_readers(key("read"), [1, 2, 3]) == CALLED
    assert await names.of_readers(key("send"), [1, 2, 3]) == {}


async def test_guessing_names_is_slow(book: Book) -> None:
    now = 1_000
    names = Names(book.called, book, clock=lambda: now)
    assert await names.find(ANN, ["be", "xx"]) == {2: "Ben"}
    await names.find(ANN, ["x"] * (FINDS_BURST - 2))
    with pytest.raises(RateLimitedError):
        await names.find(ANN, ["be"])
    assert await names.find(ADMIN, ["be"]) == {}, "each person has his own"
    now += 1_000
    await names.find(ANN, ["be"] * FINDS_PER_S)


async def test_an_account_is_found_by_its_whole_name_only(database: Database) -> None:
    users = UserRepository(database)
    ann, ben = [await users.create(name, "", "user", 1) for name in ("Ann", "ben")]
    names = Names(AccountNames(users).called, AccountNames(users), clock=lambda: 1)
    assert await names.find(ANN, ["an", "BEN", "nobody"]) == {ben.id: "ben"}
    assert await names.of_readers(ANN, [ann.id, ben.id]) == {}
    assert await names.of_readers(ADMIN, [ann.id, 99]) == {ann.id: "Ann"}
    async with database.transaction() as connection:
        await users.set_disabled(connection, ben.id, 5)
    assert await names.find(ANN, ["ben"]) == {}

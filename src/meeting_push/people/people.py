"""人：对外的 id 与内里的号互换，两边都记着（有界）；不认识的一圈一次一起问 SQL。

整数的号就是它自己，不查不记；只有一段字的在表里。别处（SQL、Redis、各站之间）只有号，在门口换：
进来的（令牌、路径、请求体、帧）``numbers``，出去的（应答、帧）``persons``。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from contextvars import Context
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import msgspec

from ..clock import Clock, now_ms
from ..contracts import UserDirectory
from ..errors import InvalidInputError, UnknownRecipientsError
from ..model import Draft, KeyPrincipal, Principal
from ..person_id import NOBODY, PersonId, PersonIds
from ..storage.database import SqlConnection
from ..storage.people import PeopleRepository

#: 记着多少个人；一个约 300 字节。忘掉最早记下的，再来就再问一次。
MAX_KNOWN: Final = 200_000
#: 一次问这么多个以上的，不与别人的合在一起。
_ASKED_ALONE: Final = 500

#: 应用的名册：一串对外的 id 里存在的那些。
Existing = Callable[[Sequence[PersonId]], Awaitable[Collection[PersonId]]]


class Bringer(NamedTuple):
    """谁发给了他们。``most_a_day``：他一天之内可以带来多少我们还不认识的人。"""

    number: int
    most_a_day: int


class People:
    """``existing``：应用的名册；没有给则发给谁谁就存在。"""

    def __init__(
        self,
        ids: PersonIds,
        record: PeopleRepository | None = None,
        existing: Existing | None = None,
        *,
        most_a_day: int = 0,
        most_known: int = MAX_KNOWN,
        clock: Clock = now_ms,
    ) -> None:
        """:param most_a_day: 一个用户一天之内可以带来多少我们还不认识的人"""
        self.ids = ids
        self._most_a_day = most_a_day
        self._given_record = record
        self._existing = existing
        self._most_known = most_known
        self._clock = clock
        self._numbers: dict[str, int] = {}
        self._persons: dict[int, str] = {}
        #: 下一次一起问的，与它的结果；后一种是问不到就给号的。
        self._asking = _Together(self._known_of)
        self._adding = _Together(self._add)

    @property
    def _record(self) -> PeopleRepository:
        assert self._given_record is not None, "integers need no record"
        return self._given_record

    # ── 进来的 ───────────────────────────────────────────────────────────────

    def read(self, given: object) -> PersonId:
        """:raises InvalidInputError: 不是 id；不引用原文"""
        person = self.ids.read(given)
        if person is None:
            raise InvalidInputError(self.grammar)
        return person

    @property
    def grammar(self) -> str:
        integer = "an integer from 1 to 2^53-1"
        if not self.ids.strings:
            return f"a user id is {integer}"
        return f"a user id is {integer}, or 1 to 64 characters of A-Z a-z 0-9 . _ ~ - @ : +"

    async def number(self, given: object) -> int:
        """令牌说的、应用自己说的：他从此存在。

        :raises InvalidInputError: 不是 id
        :raises DatabaseUnavailableError: 还不认识他，此刻也问不到
        """
        known = self._numbers.get(given) if isinstance(given, str) else None
        if known is not None:
            return known
        person = self.read(given)
        if isinstance(person, int):
            return person
        if (known := self._numbers.get(person)) is not None:
            return known
        found = await self._ask([person]) or await self._adding.ask([person])
        self._remember(found)
        return found[person]

    async def sender(self, person: PersonId | None) -> int:
        """发送者的号；整数的不看范围：0、None 是系统。其余同 ``number``。"""
        read = self.sender_id(person)
        return await self.number(read) if isinstance(read, str) else read or 0

    def sender_id(self, person: PersonId | None) -> PersonId | None:
        """规范的样子；整数的、没有的原样。错误同 ``read``。"""
        if person is None or (isinstance(person, int) and not (self.ids.always and person)):
            return person
        return self.read(person)

    async def place(self, principal: Principal) -> Principal:
        """令牌说的人，连同他的号。错误同 ``number``。"""
        person = self.read(principal.person)
        number = await self.number(person)
        subject = person if isinstance(person, str) else None
        return replace(principal, user_id=number, subject=subject)

    def bringer(self, user: Principal) -> Bringer | None:
        """他的令牌带来的人，数在他头上；管理员的、密钥的不数。"""
        free = user.is_admin or isinstance(user, KeyPrincipal)
        return None if free else Bringer(user.user_id, self._most_a_day)

    async def find(self, given: object) -> int:
        """只是问起的人：不认识的是 ``NOBODY``，不因此存在。错误同 ``number``。"""
        person = self.read(given)
        if isinstance(person, int):
            return person
        known = self._numbers.get(person)
        return known if known is not None else (await self._ask([person])).get(person, NOBODY)

    async def numbers(
        self, given: Sequence[PersonId], bringer: Bringer | None = None
    ) -> Sequence[int]:
        """发给的人，次序不变；全是整数的原样交回。不认识的从此存在，除非名册说没有。

        :raises InvalidInputError: 有的不是 id
        :raises UnknownRecipientsError: 名册里没有的，一个不漏
        :raises PeopleLimitError: 他今天带来的太多；一个也没有认下
        :raises DatabaseUnavailableError: 有不认识的，此刻也问不到
        """
        return (await self.each_number([given], bringer))[0]

    async def watched(
        self, given: Sequence[PersonId], bringer: Bringer | None = None
    ) -> Sequence[int]:
        """要看着的人：名册里没有的也照样，就像看着一个没有人用的整数。其余同 ``numbers``。"""
        return (await self._each_number([given], bringer, None))[0]

    async def each_number(
        self, given: Sequence[Sequence[PersonId]], bringer: Bringer | None = None
    ) -> Sequence[Sequence[int]]:
        """几列一起：不认识的只问一次。其余同 ``numbers``。"""
        return await self._each_number(given, bringer, self._existing)

    # ── 在应用自己的事务里 ────────────────────────────────────────────────────

    async def acquainted(self, persons: Collection[str]) -> tuple[Mapping[str, int], Sequence[str]]:
        """``read`` 过的一段字：已提交的号，与还没有号的；谁也没有因此认下。"""
        numbers = {one: self._numbers[one] for one in persons if one in self._numbers}
        if unknown := [one for one in dict.fromkeys(persons) if one not in numbers]:
            numbers |= await self._ask(unknown)
        return numbers, [one for one in unknown if one not in numbers]

    async def introduce(
        self, connection: SqlConnection, strangers: Collection[str]
    ) -> Mapping[str, int]:
        """在应用的事务里认下他们：它回滚，号就是别人的了，所以不记着。"""
        return await self._record.add_within(connection, strangers, self._clock())

    async def require_existing(
        self, strangers: Sequence[str], persons: Sequence[Sequence[PersonId]]
    ) -> None:
        """:raises UnknownRecipientsError: ``strangers`` 里有名册没有的；``persons`` 里没有的都说"""
        if self._existing is not None and strangers:
            await _require_existing(strangers, persons, self._existing)

    async def _each_number(
        self,
        given: Sequence[Sequence[PersonId]],
        bringer: Bringer | None,
        existing: Existing | None,
    ) -> Sequence[Sequence[int]]:
        if not self.ids.always and all(map(_plain, given)):
            return cast("Sequence[Sequence[int]]", given)
        known = [self._known_numbers(each) for each in given]
        if None not in known:
            return cast("Sequence[Sequence[int]]", known)
        persons = [[self.read(one) for one in each] for each in given]
        strings = {one for each in persons for one in each if isinstance(one, str)}
        found = {one: self._numbers[one] for one in strings if one in self._numbers}
        if len(found) < len(strings):
            unknown = [one for one in strings if one not in found]
            found |= await self._ask(unknown)
            if strangers := [one for one in unknown if one not in found]:
                if existing is not None:
                    await _require_existing(strangers, persons, existing)
                found |= await self._bring(strangers, bringer)
        return [[one if isinstance(one, int) else found[one] for one in each] for each in persons]

    def _known_numbers(self, given: Sequence[object]) -> list[int] | None:
        """都是认识的；有一个不是就 None。记着的都是规范的样子，不必再看。"""
        numbers: list[int] = []
        for one in given:
            number = self._numbers.get(one) if type(one) is str else None
            if number is None and not self.ids.always and type(one) is int and 0 < one < NOBODY:
                number = one
            if number is None:
                return None
            numbers.append(number)
        return numbers

    async def _bring(self, strangers: Sequence[str], bringer: Bringer | None) -> dict[str, int]:
        if bringer is None:
            found = await self._record.add(strangers, self._clock())
        else:
            found = await self._record.add(strangers, self._clock(), *bringer)
        self._remember(found)
        return found

    # ── 出去的 ───────────────────────────────────────────────────────────────

    def person(self, number: int) -> PersonId:
        """已经认识的；忘了的、没有的，是号写成的字。"""
        return number if number <= NOBODY else self._persons.get(number, str(number))

    async def persons(self, numbers: Iterable[int]) -> Mapping[int, PersonId]:
        """号 → 对外的 id，一个不少；没有这样的人（删掉了）是号写成的字。

        :raises DatabaseUnavailableError: 有忘了的，此刻问不到
        """
        shown: dict[int, PersonId] = {}
        unknown: list[int] = []
        for number in numbers:
            if number <= NOBODY:
                shown[number] = number
            elif (person := self._persons.get(number)) is not None:
                shown[number] = person
            else:
                unknown.append(number)
        if unknown:
            found = await self._record.persons(set(unknown))
            self._remember({person: number for number, person in found.items()})
            shown.update((number, found.get(number, str(number))) for number in unknown)
        return shown

    # ── 记着的 ───────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """先记起最近的一半：刚起来的网关，SQL 不在也认得他们。"""
        if self.ids.strings:
            self._remember(await self._record.newest(self._most_known // 2))

    def forget(self, number: int) -> None:
        """这个人删掉了。"""
        person = self._persons.pop(number, None)
        if person is not None:
            self._numbers.pop(person, None)

    async def _ask(self, unknown: Collection[str]) -> dict[str, int]:
        if len(unknown) > _ASKED_ALONE:
            found = await self._record.numbers(unknown)
        else:
            found = await self._asking.ask(unknown)
        self._remember(found)
        return found

    async def _known_of(self, persons: Collection[str]) -> dict[str, int]:
        return await self._record.numbers(persons)

    async def _add(self, persons: Collection[str]) -> dict[str, int]:
        return await self._record.add(persons, self._clock())

    def _remember(self, found: Mapping[str, int]) -> None:
        for person, number in found.items():
            self._numbers[person] = number
            self._persons[number] = person
        for _ in range(len(self._numbers) - self._most_known):
            oldest = next(iter(self._numbers))
            self._persons.pop(self._numbers.pop(oldest), None)


async def _require_existing(
    strangers: Sequence[str], persons: Sequence[Sequence[PersonId]], existing: Existing
) -> None:
    if set(strangers) <= set(await existing(strangers)):
        return
    wanted = list(dict.fromkeys(one for each in persons for one in each))
    known = set(await existing(wanted))
    raise UnknownRecipientsError([one for one in wanted if one not in known])


def _plain(ids: Sequence[object]) -> bool:
    """只有整数，都在范围之内。"""
    if len(ids) == 1:
        return type(ids[0]) is int and 0 < ids[0] < NOBODY
    return set(map(type, ids)) <= {int} and (not ids or _within(ids))


def _within(ids: Sequence[Any]) -> bool:
    return bool(min(ids) > 0 and max(ids) < NOBODY)


class _Together:
    """同一圈里要的合成一次。"""

    def __init__(self, ask: Callable[[Collection[str]], Awaitable[dict[str, int]]]) -> None:
        self._ask = ask
        self._wanted: set[str] = set()
        self._answer: asyncio.Task[dict[str, int]] | None = None

    async def ask(self, wanted: Collection[str]) -> dict[str, int]:
        self._wanted.update(wanted)
        if self._answer is None:
            self._answer = asyncio.create_task(self._run(), name="people", context=Context())
        found = await asyncio.shield(self._answer)  # 一个人走了，别人还等着
        return {one: found[one] for one in wanted if one in found}

    async def _run(self) -> dict[str, int]:
        await asyncio.sleep(0)  # 这一圈里的都来了
        wanted, self._wanted, self._answer = self._wanted, set(), None
        return await self._ask(wanted)


#: ``sender.id`` 说的人没有。
NO_SENDER: Final = "sender.id: no such user"
#: 只有整数的：不查不记，谁都可以用。
INTEGERS: Final = People(PersonIds())


class Addressing:
    """发给谁：收件人与发送者对外的 id 换成号，都存在；``directory`` 说的是号。"""

    def __init__(
        self,
        people: People,
        directory: UserDirectory,
        check_counts: Callable[[Sequence[Sequence[PersonId]]], None],
    ) -> None:
        """:param check_counts: 列得太长的抛出，见 ``DraftRules``"""
        self._people = people
        self._directory = directory
        self._check_counts = check_counts

    async def addressed(
        self, drafts: Sequence[Draft], bringer: Bringer | None = None
    ) -> Sequence[Draft]:
        """收件人换成号；全是整数的原样交回。错误同 ``People.numbers``。

        :raises PayloadTooLargeError: 列得太长，不去认是谁
        """
        given = [draft.recipient_ids for draft in drafts]
        self._check_counts(given)
        numbers = await self._people.each_number(given, bringer)
        if numbers is given:
            return drafts
        return [
            msgspec.structs.replace(draft, recipient_ids=tuple(each))
            for draft, each in zip(drafts, numbers, strict=True)
        ]

    async def check(self, drafts: Sequence[Draft]) -> None:
        """收件人与替谁发的那些人都在。

        :raises UnknownRecipientsError: 有收件人不存在
        :raises InvalidInputError: ``sender.id`` 不存在，或不是 id
        """
        wanted = {user_id for draft in drafts for user_id in draft.numbers}
        given = {draft.sender.id for draft in drafts if draft.sender and draft.sender.id}
        await self._require(wanted, await self._senders(list(given)) if given else ())

    async def _require(self, wanted: Set[int], senders: Sequence[int]) -> None:
        asked = {*wanted, *senders} if senders else wanted
        unknown = asked - await self._directory.existing_ids(sorted(asked))
        if unknown & wanted:
            shown = await self._people.persons(sorted(unknown & wanted))
            raise UnknownRecipientsError(list(shown.values()))
        if unknown:
            raise InvalidInputError(NO_SENDER)

    async def _senders(self, given: Sequence[int | str]) -> Sequence[int]:
        try:
            return await self._people.numbers(given)
        except UnknownRecipientsError:
            raise InvalidInputError(NO_SENDER) from None

"""发给谁：收件人与发送者对外的 id 换成号，收件人都存在。"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..contracts import UserDirectory
from ..errors import InvalidInputError, UnknownRecipientsError
from ..model import Draft, Sender
from ..people.people import Bringer, People
from .drafts import DraftRules


class Addressing:
    """``directory`` 说的是号。"""

    def __init__(self, people: People, directory: UserDirectory, rules: DraftRules) -> None:
        self._people = people
        self._directory = directory
        self._rules = rules

    async def addressed(
        self, drafts: Sequence[Draft], bringer: Bringer | None = None
    ) -> Sequence[Draft]:
        """收件人换成号；全是整数的原样交回。错误同 ``People.numbers``。

        :raises PayloadTooLargeError: 列得太长，不去认是谁
        """
        given = [draft.recipient_ids for draft in drafts]
        self._rules.check_counts(given)
        numbers = await self._people.each_number(given, bringer)
        if numbers is given:
            return drafts
        return [
            replace(draft, recipient_ids=tuple(each))
            for draft, each in zip(drafts, numbers, strict=True)
        ]

    async def check(self, drafts: Sequence[Draft]) -> None:
        """收件人与替谁发的那些人都在。

        :raises UnknownRecipientsError: 有收件人不存在
        :raises InvalidInputError: ``sender.id`` 不存在，或不是 id
        """
        wanted = {user_id for draft in drafts for user_id in draft.numbers}
        given = {draft.sender.id for draft in drafts if draft.sender and draft.sender.id}
        asked = wanted | set(await self._senders(list(given))) if given else wanted
        unknown = asked - await self._directory.existing_ids(sorted(asked))
        if unknown & wanted:
            shown = await self._people.persons(sorted(unknown & wanted))
            raise UnknownRecipientsError(list(shown.values()))
        if unknown:
            raise InvalidInputError("sender.id: no such user")

    async def ready(self, sender: Sender, draft: Draft, now: int) -> tuple[int, Draft]:
        """发送者的号，检查过的草稿；收件人都在。"""
        [addressed] = await self.addressed([draft])
        checked = self._rules.check(addressed, now)
        await self.check([checked])
        return await self._people.sender(sender.id), checked

    async def _senders(self, given: Sequence[int | str]) -> Sequence[int]:
        try:
            return await self._people.numbers(given)
        except UnknownRecipientsError:
            raise InvalidInputError("sender.id: no such user") from None

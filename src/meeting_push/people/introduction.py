"""在应用自己的事务里发送：头一次见到的人在那个事务里认下，它回滚就没有过他。"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ..errors import InvalidInputError, UnknownRecipientsError
from ..model import Draft, Sender
from ..person_id import PersonId
from ..storage.database import SqlConnection
from .people import NO_SENDER, Addressing


@dataclass(frozen=True, slots=True)
class Ready:
    """检查过的一条，人还是对外的 id；``writer``：写它的人，或替的那一个。

    ``numbers``：其中一段字的号；``strangers``：还没有号的，在调用者的事务里认下。
    """

    draft: Draft
    writer: Sender
    numbers: Mapping[str, int]
    strangers: Sequence[str]


class Introduction(Addressing):
    """先 ``ready``，再在应用的连接上 ``settle``。"""

    async def ready(self, sender: Sender, draft: Draft, check: Callable[[Draft], Draft]) -> Ready:
        """调用者的事务之外能做的都做了：``check`` 过，都在；谁也还没有认下。错误同 ``check``。"""
        people = self._people
        self._check_counts([draft.recipient_ids])
        recipients = tuple(map(people.read, draft.recipient_ids))
        checked = check(replace(draft, recipient_ids=recipients))
        behalf = checked.sender or sender
        writer = Sender(people.sender_id(behalf.id), behalf.name)
        if checked.sender is not None:
            checked = replace(checked, sender=writer)
        persons = [one for one in (*checked.recipient_ids, writer.id) if isinstance(one, str)]
        numbers, strangers = await people.acquainted(persons)
        ready = Ready(checked, writer, numbers, strangers)
        await self._check_ready(ready)
        return ready

    async def settle(self, connection: SqlConnection, ready: Ready) -> tuple[Draft, int | None]:
        """在调用者的事务里认下没有号的：收件人换成号的草稿，发送者若是一段字的号。

        认下的不记着：他可能回滚。提交了的，下一次问起就记着了。
        """
        numbers = dict(ready.numbers)
        if ready.strangers:
            numbers |= await self._people.introduce(connection, ready.strangers)
        recipients = tuple(_number(one, numbers) for one in ready.draft.recipient_ids)
        writer = ready.writer.id
        number = numbers[writer] if isinstance(writer, str) else None
        return replace(ready.draft, recipient_ids=recipients), number

    async def _check_ready(self, ready: Ready) -> None:
        """没有号的，名册照对外的 id 说；有号的照号。"""
        recipients, strangers = ready.draft.recipient_ids, set(ready.strangers)
        new = [one for one in recipients if isinstance(one, str) and one in strangers]
        await self._people.require_existing(new, [recipients])
        wanted = {_number(one, ready.numbers) for one in recipients if one not in strangers}
        senders: Sequence[int] = ()
        if ready.draft.sender and (writer := ready.writer.id):
            if writer in strangers:
                await self._require_senders([writer])
            else:
                senders = [_number(writer, ready.numbers)]
        await self._require(wanted, senders)

    async def _require_senders(self, strangers: Sequence[str]) -> None:
        try:
            await self._people.require_existing(strangers, [strangers])
        except UnknownRecipientsError:
            raise InvalidInputError(NO_SENDER) from None


def _number(person: PersonId, numbers: Mapping[str, int]) -> int:
    return numbers[person] if isinstance(person, str) else person

"""各人怎样称呼，给人看的；谁看得见谁，应用的名册说了算。

一个普通人能得到名字的只有：写给他的人，名册说他看得见的人，他说得出名字的人。
不然谁都可以从 id 问出一整本名册：发给一万个人，再看各人叫什么（A17）。
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from ..clock import Clock, now_ms
from ..errors import RateLimitedError
from ..limits.rate import KeyedBuckets
from ..model import Principal, Sender
from ..person_id import PersonId
from ..storage.accounts import UserRepository

#: 一次按名字找，至多给这么多个。
MAX_FOUND: Final = 20
#: 一次至多找几段。
MAX_TEXTS: Final = 20
#: 一个人按名字找：每秒几段，一口气几段。猜也只能这么快。
FINDS_PER_S: Final = 5
FINDS_BURST: Final = 30

Named = Mapping[PersonId, str]
#: 一串对外的 id → 认得的各人的名字；问不到是空的，不抛出。
Known = Callable[[Collection[PersonId]], Awaitable[Named]]


class Sight(Protocol):
    """谁看得见谁；都是对外的 id，问不到是空的，不抛出。"""

    async def seen(self, viewer: PersonId, persons: Collection[PersonId]) -> Named:
        """``persons`` 里 ``viewer`` 看得见的各人的名字。"""

    async def find(self, viewer: PersonId, text: str) -> Named:
        """名字像 ``text`` 的人里 ``viewer`` 看得见的，至多 ``MAX_FOUND`` 个。"""


class AccountNames:
    """账号归我们时：谁也不因此看见别人，名字要一字不差地说得出来（注册时本就说得出谁在）。"""

    def __init__(self, users: UserRepository) -> None:
        self._users = users

    async def called(self, persons: Collection[PersonId]) -> Named:
        found = await self._users.names([one for one in persons if isinstance(one, int)])
        return {user_id: name for user_id, name in found.items()}  # noqa: C416 — 键的类型更宽

    async def seen(self, _viewer: PersonId, _persons: Collection[PersonId]) -> Named:
        return {}

    async def find(self, _viewer: PersonId, text: str) -> Named:
        user = await self._users.by_name(text)
        return {} if user is None or user.disabled_at is not None else {user.id: user.username}


async def nobody(_persons: Collection[PersonId]) -> Named:
    """名字我们不知道。"""
    return {}


class Names:
    """``sight``：没有给，谁也看不见别人；管理员与看得到别人投递的密钥不问它。"""

    def __init__(
        self, known: Known = nobody, sight: Sight | None = None, clock: Clock = now_ms
    ) -> None:
        self._known = known
        self._sight = sight
        self._clock = clock
        self._finds = KeyedBuckets(FINDS_PER_S, FINDS_BURST, exact=True)

    async def signed(self, senders: Sequence[Sender]) -> list[Sender]:
        """写给他的人，令牌没有说名字的按名册；一起问一次。"""
        nameless = {one.id for one in senders if one.id and not one.name}
        if not nameless:
            return list(senders)
        named = await self._known(nameless)
        return [
            Sender(one.id, one.name or named.get(one.id, "")) if one.id in nameless else one
            for one in senders
        ]

    async def of_readers(self, viewer: Principal, persons: Collection[PersonId]) -> Named:
        """``viewer`` 发给的人。"""
        if not persons:
            return {}
        if viewer.reads_all:
            return await self._known(persons)
        if self._sight is None or viewer.key_id is not None:
            return {}
        return await self._sight.seen(viewer.person, persons)

    async def find(self, viewer: Principal, texts: Sequence[str]) -> Named:
        """名字像其中一段的。

        :raises RateLimitedError: 找得太勤
        """
        if not self._finds.take(viewer.user_id, self._clock(), len(texts)):
            raise RateLimitedError("too many searches for people", retry_after_s=2)
        if self._sight is None:
            return {}
        found = [self._sight.find(viewer.person, text) for text in texts]
        return {person: name for each in await gather(*found) for person, name in each.items()}

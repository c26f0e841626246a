"""认识的用户：记住最近确认过存在的 id，热的收件人不必每次问 SQL。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..clock import Clock, now_ms
from ..contracts import UserDirectory
from ..errors import DirectoryUnavailableError, MeetingPushError
from ..logs import RepeatedWarning
from ..model import MAX_USER_ID

#: 停用的用户至多再收到这么久的消息。
KEEP_MS: Final = 60_000
MAX_KNOWN: Final = 500_000


class Everybody:
    """人归应用而它没有给名册：令牌说是谁就是谁，发给谁谁就在。"""

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return {user_id for user_id in user_ids if 0 < user_id <= MAX_USER_ID}


class ForeignDirectory:
    """应用自己的名册：它抛出什么都是“此刻问不到”，只记类名。"""

    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory
        self._failed = RepeatedWarning("directory_failed")

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        """:raises DirectoryUnavailableError: 它抛出了不是我们的异常"""
        try:
            return set(await self._directory.existing_ids(user_ids))
        except MeetingPushError:
            raise
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛出
            self._failed.say(error=type(error).__name__)
            raise DirectoryUnavailableError("the directory of users failed") from None


class KnownUsers:
    """包在任何 ``UserDirectory`` 外面；只记“存在”，不记“不存在”：新用户立即可收。"""

    def __init__(self, directory: UserDirectory, clock: Clock = now_ms) -> None:
        self._directory = directory
        self._clock = clock
        self._until: dict[int, int] = {}

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        now, until = self._clock(), self._until
        known = {user_id for user_id in user_ids if until.get(user_id, 0) > now}
        if len(known) == len(user_ids):
            return known
        found = await self._directory.existing_ids([u for u in user_ids if u not in known])
        if len(until) + len(found) > MAX_KNOWN:
            until.clear()
        until.update(dict.fromkeys(found, now + KEEP_MS))
        return known | found

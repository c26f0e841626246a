"""人归应用时的名册：他自己的，或没有。"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from ..contracts import UserDirectory, UserNames
from ..errors import DirectoryUnavailableError, MeetingPushError
from ..logs import RepeatedWarning
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from .drafts import MAX_NAME_CHARS


class Everybody:
    """人归应用而它没有给名册：令牌说是谁就是谁，发给谁谁就在；抹掉了的（``gone``）不在。"""

    def __init__(self, gone: Set[int] = frozenset()) -> None:
        self._gone = gone

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        found = set(user_ids)
        return found - self._gone if self._gone else found


class ForeignDirectory:
    """应用自己的名册：它抛出什么都是“此刻问不到”，只记类名。"""

    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory
        #: 号怎样换回名册认得的 id；认得字符串的须换上自己的。
        self.people: People = INTEGERS
        self._failed = RepeatedWarning("directory_failed")

    @property
    def has_names(self) -> bool:
        return isinstance(self._directory, UserNames)

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        """见 ``existing``；问的是号，名册只认得对外的 id。"""
        shown = await self.people.persons(user_ids)
        found = await self.existing(list(shown.values()))
        return {number for number, person in shown.items() if person in found}

    async def existing(self, persons: Sequence[PersonId]) -> set[PersonId]:
        """:raises DirectoryUnavailableError: 它抛出了不是我们的异常"""
        try:
            return set(await self._directory.existing_ids(persons))
        except MeetingPushError:
            raise
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛出
            self._failed.say(error=type(error).__name__)
            raise DirectoryUnavailableError("the directory of users failed") from None

    async def names(self, user_ids: Sequence[int]) -> Mapping[int, str]:
        """见 ``contracts.UserNames``；问不到就没有名字，id 照样看得到。"""
        assert isinstance(self._directory, UserNames)
        shown = await self.people.persons(user_ids)
        try:
            found = await self._directory.names(list(shown.values()))
            return {
                number: str(found[person])[:MAX_NAME_CHARS]
                for number, person in shown.items()
                if person in found
            }
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛出
            self._failed.say(error=type(error).__name__)
            return {}

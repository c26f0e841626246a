"""人归应用时：令牌由它验，名册是它的，或没有。

它抛出的一切变成我们的几种，令牌的文字不从这里出去（SEC-2）。
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Final, cast

import jwt

from ..clock import now_ms
from ..contracts import PeopleInSight, TokenVerifier, UserDirectory, UserNames
from ..errors import (
    AuthenticationError,
    DirectoryUnavailableError,
    ForbiddenError,
    InvalidTokenError,
    MeetingPushError,
    RateLimitedError,
    TokenExpiredError,
    TokenNotYetValidError,
    UnavailableError,
    VerifierUnavailableError,
)
from ..logs import RepeatedWarning
from ..model import MAX_NAME_CHARS, Principal
from ..people.names import MAX_FOUND, Named
from ..people.people import INTEGERS, People
from ..person_id import PersonId, PersonIds
from .access_tokens import MAX_EARLY_MS, Place

#: 我们自己的错误里，验证者该抛出的那些；原样放行，只换掉它的话（可能引用了令牌）。
_OURS = (AuthenticationError, ForbiddenError, RateLimitedError, UnavailableError)
#: 说的是令牌不对：PyJWT 的，与取声明、转换时常见的。
_BAD_TOKEN = (jwt.InvalidTokenError, ValueError, KeyError)
#: 名字等这么久；没有名字，id 照样看得到。
_NAMES_TIMEOUT_S: Final = 2
_Answer = dict[Any, str]


class ForeignVerifier:
    """包在应用给的 ``TokenVerifier`` 外面；``timeout_s`` 是等它的上限。

    ``place``：给它说的人一个号；没有给则 id 只能是整数。
    """

    def __init__(
        self, verifier: TokenVerifier, timeout_s: float, place: Place | None = None
    ) -> None:
        self._verifier = verifier
        self._place = place
        self._timeout_s = timeout_s
        self._failed = RepeatedWarning("verifier_failed")

    async def verify_access_token(self, token: str) -> Principal:
        """:raises InvalidTokenError: 它说令牌不对（我们的、PyJWT 的、ValueError、KeyError）
        :raises TokenExpiredError: 它说过期了
        :raises TokenNotYetValidError: 它说还没到时候，而令牌上写的就在几分钟之内
        :raises VerifierUnavailableError: 它抛出了别的，超时，或给的不是 ``Principal``
        """
        principal = await self._verified(token)
        return principal if self._place is None else await self._place(principal)

    async def _verified(self, token: str) -> Principal:
        try:
            async with asyncio.timeout(self._timeout_s):
                return self._checked(await self._verifier.verify_access_token(token))
        except _OURS as error:
            error.message, error.details = error.code.replace("_", " "), None
            error.args = (error.message,)
            raise error.with_traceback(None) from None
        except jwt.ExpiredSignatureError:
            raise TokenExpiredError("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise _too_early(token) from None
        except _BAD_TOKEN as error:
            raise InvalidTokenError(f"the token is invalid: {type(error).__name__}") from None
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛出
            self._failed.say(error=type(error).__name__)
            raise VerifierUnavailableError("tokens can not be verified now") from None

    def _checked(self, principal: object) -> Principal:
        if not isinstance(principal, Principal):
            raise TypeError("a verifier returns a Principal")
        if PersonIds(strings=self._place is not None).read(principal.person) is None:
            raise TypeError("a principal's user_id is a user id")
        return principal


def _too_early(token: str) -> AuthenticationError:
    """PyJWT 先验签名，后看时间：签名是对的，只差没有到时候；早多少看令牌自己怎么写。"""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        begins_s = max(float(claims.get(name, 0)) for name in ("iat", "nbf"))
    except _BAD_TOKEN:
        begins_s = math.inf
    if begins_s * 1000 - now_ms() <= MAX_EARLY_MS:
        return TokenNotYetValidError("the token is not valid yet")
    return InvalidTokenError("the token is invalid: ImmatureSignatureError")


class Everybody:
    """人归应用而它没有给名册：令牌说是谁就是谁，发给谁谁就在；抹掉了的（``gone``）不在。"""

    def __init__(self, gone: Set[int] = frozenset()) -> None:
        self._gone = gone

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        found = set(user_ids)
        return found - self._gone if self._gone else found


class ForeignDirectory:
    """应用自己的名册：它抛出什么都是“此刻问不到”，只记类名。实现 ``people.names.Sight``。"""

    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory
        #: 号怎样换回名册认得的 id；认得字符串的须换上自己的。
        self.people: People = INTEGERS
        self._refused = RepeatedWarning("directory_failed")

    @property
    def has_names(self) -> bool:
        return isinstance(self._directory, UserNames)

    @property
    def has_sight(self) -> bool:
        return isinstance(self._directory, PeopleInSight)

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
            self._refused.say(error=type(error).__name__)
            raise DirectoryUnavailableError("the directory of users failed") from None

    async def names(self, user_ids: Sequence[int]) -> Mapping[int, str]:
        """见 ``contracts.UserNames``；问不到就没有名字，id 照样看得到。"""
        shown = await self.people.persons(user_ids)
        found = await self.called(list(shown.values()))
        return {number: found[person] for number, person in shown.items() if person in found}

    async def called(self, persons: Collection[PersonId]) -> Named:
        """同 ``names``，是对外的 id。"""
        directory = cast("UserNames", self._directory)
        found = await self._asked(lambda: directory.names(list(persons)))
        return {person: found[person] for person in persons if person in found}

    async def seen(self, viewer: PersonId, persons: Collection[PersonId]) -> Named:
        sight = cast("PeopleInSight", self._directory)
        found = await self._asked(lambda: sight.names_seen_by(viewer, list(persons)))
        return {person: found[person] for person in persons if person in found}

    async def find(self, viewer: PersonId, text: str) -> Named:
        sight = cast("PeopleInSight", self._directory)
        found = await self._asked(lambda: sight.find_people(viewer, text, MAX_FOUND))
        most = islice(found.items(), MAX_FOUND)
        read = ((self.people.ids.read(person), name) for person, name in most)
        return {person: name for person, name in read if person is not None}

    async def _asked(self, question: Callable[[], Awaitable[Mapping[Any, object]]]) -> _Answer:
        """等得太久、抛出什么，都是空的；太长的名字截短。"""
        try:
            async with asyncio.timeout(_NAMES_TIMEOUT_S):
                found = await question()
            return {person: str(name)[:MAX_NAME_CHARS] for person, name in found.items()}
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛出
            self._refused.say(error=type(error).__name__)
            return {}

"""路径里的人；外来的发布者问一个人的号；按名字找人。

不用 ``from __future__ import annotations``：见 ``message_manage``。
"""

from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field

from ..accept.drafts import check_text
from ..errors import InvalidInputError, NotFoundError
from ..model import MAX_USER_ID, Principal
from ..people.names import MAX_TEXTS, Names
from ..people.people import People
from ..person_id import MAX_CHARS, NOBODY, PATTERN, PersonId
from .contract_route import Out, contract_router
from .security import Security

#: 查询、路径里的 id；``5`` 是整数。
PersonText = (
    Annotated[int, Field(ge=1, le=MAX_USER_ID)]
    | Annotated[str, Field(pattern=PATTERN, max_length=MAX_CHARS)]
)


#: 一段要找的名字至多这么长。
MAX_NAME_SOUGHT: Final = 64


class Who(NamedTuple):
    """号，与对外的 id；不认识的人的号是 ``NOBODY``：什么都没有。"""

    number: int
    person: PersonId


class InPath:
    """依赖：``/users/{user_id}/…`` 里的人；只是问起，不因此存在。"""

    def __init__(self, people: People) -> None:
        self._people = people

    async def __call__(self, user_id: Annotated[PersonText, Path()]) -> Who:
        return await who(self._people, user_id)


async def who(people: People, given: object) -> Who:
    """:raises InvalidInputError: 不是 id"""
    person = people.ids.read(given)
    if person is None:
        details = [{"field": "user_id", "message": people.grammar}]
        raise InvalidInputError("the request is invalid", details=details)
    return Who(await people.find(person), person)


class PersonOut(Out):
    user_id: PersonId
    inner_id: int = Field(description="Redis 的键与频道里的 {uid}；整数的就是它自己")
    channel: str = Field(description="他的频道，连同前缀：往这里发布")


class NamedPersonOut(Out):
    user_id: PersonId
    name: str


class PeopleFoundOut(Out):
    items: list[NamedPersonOut]


Sought = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME_SOUGHT)]],
    Query(min_length=1, max_length=MAX_TEXTS, description="名字，或一段；可以几个"),
]


def people_router(
    people: People, names: Names, channel_of: Callable[[int], str], security: Security
) -> APIRouter:
    """``/people…``；前缀由调用者加。"""
    router = contract_router(tags=["people"])

    @router.get("/people", summary="按名字找人：他看得见的")
    async def find(
        q: Sought, viewer: Annotated[Principal, Depends(security.current_principal)]
    ) -> PeopleFoundOut:
        """名册说他看得见的；账号归我们时是一字不差的那一个。429：找得太勤。"""
        for text in q:
            check_text("q", text)
        found = await names.find(viewer, q)
        items = [NamedPersonOut(user_id=person, name=name) for person, name in found.items()]
        return PeopleFoundOut(items=items)

    @router.get("/people/{user_id}", summary="一个人的号：直接往 Redis 发布的要问")
    async def person(
        user: Annotated[Who, Depends(InPath(people))],
        _viewer: Annotated[Principal, Depends(security.allowing("send", "read", "presence"))],
    ) -> PersonOut:
        """404：一段字的 id，还没有谁是他。"""
        if user.number == NOBODY:
            raise NotFoundError("no such person")
        return PersonOut(user_id=user.person, inner_id=user.number, channel=channel_of(user.number))

    return router

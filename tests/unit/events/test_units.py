"""``data`` 里的人是对外的 id。"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meeting_push.events.units import Unit, introduced
from meeting_push.person_id import NOBODY, PersonId
from tests.unit.events.test_delivery import ROW

ANN = NOBODY + 1


async def persons(numbers: Iterable[int]) -> Mapping[int, PersonId]:
    return {number: "ann" if number == ANN else number for number in numbers}


async def test_a_person_with_a_string_id_has_it_in_the_event() -> None:
    unit = Unit.of(ROW._replace(items=f'[["M1",{ANN},1,2],["M1",5,1,2]]'))
    assert [event.data["user_id"] for event in await introduced(unit, persons)] == ["ann", 5]


async def test_the_system_is_nobody() -> None:
    items = f'[["M1",null,"key","message",0,1,1,null,2],["M2",{ANN},"ann","message",0,1,1,null,2]]'
    unit = Unit.of(ROW._replace(items=items, kind="message.accepted"))
    assert [event.data["sender_id"] for event in await introduced(unit, persons)] == [None, "ann"]

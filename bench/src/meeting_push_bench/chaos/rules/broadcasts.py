"""DLV-5，广播：连着的设备都得到，别的设备确认过的也一样（E1）；一条连接上不来两次。

何时算“没到”同 ``arrival``。广播不占 seq，没有 ``gap``；Redis 不丢数据时也不该有 ``resync``。
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..disturbances import Disturbances
from ..facts import Facts
from ..history import Closed, Cried, Ended, Heard, Opened
from ..violation import Violation
from .arrival import GRACE_MS

RULE: Final = "broadcasts"


def broadcasts(facts: Facts) -> Iterator[Violation]:
    yield from _Ledger(facts).violations()
    heard = {i for event in facts.events if isinstance(event, Heard) for i in event.message_ids}
    for index, event in enumerate(facts.events):
        if isinstance(event, Cried) and event.message_id not in heard:
            yield Violation(
                rule=RULE,
                detail="accepted (2xx), and no device ever got it",
                message_id=event.message_id,
                index=index,
            )


class _Ledger:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        #: 第一次被听到的序号与时刻；此后才打开的连接不欠它（也许别的设备已确认）。
        self._first: dict[str, tuple[int, int]] = {}
        for index, event in enumerate(facts.events):
            if isinstance(event, Heard):
                for message_id in event.message_ids:
                    self._first.setdefault(message_id, (index, event.at))
        gateways = 1 + max((d.gateway for _, d in facts.dialled.values()), default=0)
        self._disturbances = Disturbances(facts, gateways, GRACE_MS)
        self._opened: dict[int, tuple[int, set[str]]] = {}

    def violations(self) -> Iterator[Violation]:
        for index, event in enumerate(self._facts.events):
            match event:
                case Opened():
                    self._opened[event.connection] = (index, set())
                case Heard():
                    yield from self._heard(index, event)
                case Closed():
                    yield from self._leave(event.connection, index, event.at)
                case Ended():
                    for connection in list(self._opened):
                        yield from self._leave(connection, index, event.at)
                case _:
                    pass

    def _heard(self, index: int, event: Heard) -> Iterator[Violation]:
        heard = self._opened[event.connection][1]
        for message_id in event.message_ids:
            if message_id in heard:
                yield self._violation(event.connection, message_id, "twice on a connection", index)
            heard.add(message_id)

    def _leave(self, connection: int, index: int, at: int) -> Iterator[Violation]:
        since, heard = self._opened.pop(connection, (index, set()))
        gateway = self._facts.dialled[connection][1].gateway
        for message_id, (first_index, first_at) in self._first.items():
            if message_id in heard or first_index < since or first_at + GRACE_MS > at:
                continue
            if self._disturbances.due(gateway, first_at) <= at:
                yield self._violation(connection, message_id, "never came", index)

    def _violation(self, connection: int, message_id: str, detail: str, index: int) -> Violation:
        return Violation(
            rule=RULE,
            detail=detail,
            user_id=self._facts.user_of(connection),
            message_id=message_id,
            connection=connection,
            index=index,
        )

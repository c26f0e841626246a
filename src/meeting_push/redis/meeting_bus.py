"""会议在 Redis 里的一切：频道与在场；连接是自己的，会议再忙也不挡用户消息的路（ISO-1）。"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from ..contracts import ChannelHandler
from ..person_id import PersonId
from .address import RedisAddress
from .cluster import lean_connection
from .keys import Keys
from .lean import Script
from .link import Argument
from .sharded_subscriber import subscriber_for

_presence: Final = Script("meeting_presence")
_person: Final[msgspec.json.Decoder[PersonId]] = msgspec.json.Decoder(PersonId)

#: 在场的人：对外的 id → 名字。
Online = dict[PersonId, str]


class Space(NamedTuple):
    """一场会议容得下几条连接，一个人几条；``always``：满了也给他第一条。0 = 不限。"""

    connections: int
    share: int
    always: bool = False


_UNLIMITED: Final = Space(0, 0)


class MeetingBus:
    """``start`` 之后可用；两条连接都自己重连。错误同 ``LeanConnection.execute``。

    发布是至多一次的快路：漏了什么，从记录（SQL）补。``ttl_ms`` 之内没有续期的连接不算在场。
    """

    def __init__(
        self, address: RedisAddress, keys: Keys, *, ttl_ms: int, timeout_s: float = 5.0
    ) -> None:
        self._keys = keys
        self._ttl_ms = ttl_ms
        self._lean = lean_connection(
            address, timeout_s=timeout_s, name="meeting-push-meetings-lean"
        )
        self._subscriber = subscriber_for(
            self._lean, keys, timeout_s=timeout_s, name="meeting-push-meetings"
        )

    @property
    def reconnects(self) -> int:
        return self._subscriber.reconnects + self._lean.reconnects

    @property
    def connected(self) -> bool:
        return self._subscriber.connected and self._lean.connected

    async def start(self, handler: ChannelHandler, on_resubscribed: Callable[[], None]) -> None:
        """见 ``Subscriber.start``。"""
        await self._lean.connect()
        try:
            await self._subscriber.start(handler, on_resubscribed)
        except BaseException:
            await self._lean.close()
            raise

    async def close(self) -> None:
        await self._subscriber.close()
        await self._lean.close()

    # ── 频道 ────────────────────────────────────────────────────────────────

    def channel(self, meeting_id: str) -> bytes:
        return self._keys.meeting_channel(meeting_id).encode()

    async def subscribe(self, meeting_id: str) -> None:
        """返回时已确认：此后发布的都会到达回调。"""
        await self._subscriber.subscribe_channel(self._keys.meeting_channel(meeting_id))

    def unsubscribe(self, meeting_id: str) -> None:
        self._subscriber.unsubscribe_channel(self._keys.meeting_channel(meeting_id))

    async def publish(self, meeting_id: str, frames: Sequence[bytes]) -> None:
        """依次发布给持有这场会议的全部节点（含自己）。"""
        channel = self._keys.meeting_channel(meeting_id)
        await self._lean.execute_many([("PUBLISH", channel, frame) for frame in frames])

    # ── 在场 ────────────────────────────────────────────────────────────────

    async def enter(self, meeting_id: str, member: str, space: Space) -> Online | None:
        """一条连接到场，返回此刻在场的人；满了则 None。幂等。"""
        full, online = await self._run(meeting_id, space, (), (member,))
        return None if full else online

    async def leave(self, meeting_id: str, member: str) -> None:
        """一条连接离开。幂等。"""
        await self._run(meeting_id, _UNLIMITED, (member,), ())

    async def refresh(self, meeting_id: str, members: Sequence[str]) -> Online:
        """为本节点的连接续期，清掉过期的（死节点的），返回此刻在场的人。"""
        return (await self._run(meeting_id, _UNLIMITED, (), members))[1]

    async def _run(
        self, meeting_id: str, space: Space, removed: Sequence[str], added: Sequence[str]
    ) -> tuple[bool, Online]:
        args: list[Argument] = [self._ttl_ms, self._keys.meeting_channel(meeting_id)]
        args += (space.connections, space.share, int(space.always))
        args += (len(removed), *removed, *added)
        key = self._keys.meeting_online(meeting_id)
        full, flat = await _presence.run(self._lean, (key,), args)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return bool(full), {
            _person.decode(user): name.decode(errors="replace") for user, name in pairs
        }


def member_of(person: PersonId, connection_id: str, name: str) -> str:
    """一条连接在 ``meeting_online`` 里的成员；格式见 ``lua/meeting_presence.lua``。"""
    user = json.dumps(person).replace(":", "\\u003a")
    return f"{user}:{connection_id}:{name}"

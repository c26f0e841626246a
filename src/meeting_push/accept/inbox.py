"""收件箱：一页、数目、已读与归档，并告诉他别的设备。

未读数取自记录，不在客户端加减（LESSONS 22）；同步帧是瞬时的，丢了下次连接再取。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..deliver.message_publisher import MessagePublisher
from ..errors import MeetingPushError
from ..logs import RepeatedWarning
from ..protocol import frames
from ..redis.redis_service import courtesy
from ..storage.inbox import InboxRepository
from ..storage.inbox_pages import EVERYTHING, InboxFilter
from ..storage.rows import InboxChange, InboxItem, Page
from .drafts import check_text

#: 一段要找的字至多这么长。
MAX_SOUGHT_CHARS: Final = 100


class Inbox:
    """各方法的错误：数据库不在 ``DatabaseUnavailableError``；Redis 不在，别的设备这次没有听到。

    ``record``：只是看的（一条、数目）直接问它。
    """

    def __init__(self, record: InboxRepository, publisher: MessagePublisher) -> None:
        self.record = record
        self._publisher = publisher
        self._sync_lost = RepeatedWarning("read_sync_lost")

    async def page(
        self,
        user_id: int,
        wanted: InboxFilter = EVERYTHING,
        *,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[InboxItem, str]:
        """一页，新的在前。"""
        for name, text in (("cursor", cursor), ("q", wanted.text)):
            if text is not None:
                check_text(name, text)
        return await self.record.page(user_id, wanted, cursor, limit)

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> int:
        """见 ``contracts.ReadSink``。"""
        return await self._sync_read(user_id, await self.record.mark_read(user_id, message_ids))

    async def mark_read_upto(self, user_id: int, message_id: str) -> int:
        """把不晚于 ``message_id`` 的全部标为已读，返回未读数。"""
        newly = await self.record.mark_read_upto(user_id, message_id)
        return await self._sync_read(user_id, newly)

    async def set_state(
        self,
        user_id: int,
        message_ids: Sequence[str],
        *,
        read: bool | None = None,
        archived: bool | None = None,
    ) -> InboxChange:
        """已读、归档改成这样；真有变了的，别的设备得到 ``inbox_sync``。幂等。"""
        change = await self.record.set_state(user_id, message_ids, read=read, archived=archived)
        if change.changed:
            frame = frames.InboxSync(
                message_ids=change.message_ids,
                read=read,
                archived=archived,
                unread_count=change.unread,
                version=change.version,
            )
            await self._tell(user_id, [frames.encode(frame)])
        return change

    async def _sync_read(self, user_id: int, newly: Sequence[str]) -> int:
        unread = await self.record.unread_count(user_id)
        most = frames.MAX_ACK_IDS
        parts = [newly[start : start + most] for start in range(0, len(newly), most)]
        told = (frames.ReadSync(message_ids=ids, unread_count=unread) for ids in parts)
        await self._tell(user_id, map(frames.encode, told))
        return unread

    async def _tell(self, user_id: int, encoded: Iterable[bytes]) -> None:
        for frame in encoded:
            try:
                await courtesy(self._publisher.publish_frame(user_id, frame))
            except MeetingPushError as error:
                self._sync_lost.say(code=error.code, cause=error.cause, user_id=user_id)
                return

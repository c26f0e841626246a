"""正文的来处：从 SQL 的记录重新做出来。"""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.frames import encode_tail
from ..storage.messages import MessageRepository


class StoredBodies:
    """实现 ``contracts.BodySource``。"""

    def __init__(self, messages: MessageRepository) -> None:
        self._messages = messages

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._messages.messages(message_ids)
        return {message_id: encode_tail(message) for message_id, message in found.items()}

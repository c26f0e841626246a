"""挤出的 Redis 操作：溢出了的信箱里有什么，给选好的立下墓碑。

选谁见 ``outcome/mailbox_evictor.py``。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ..mailbox_model import Origin, OverfullMailbox
from .keys import Keys
from .lean import LeanConnection, Script
from .mailboxes import MAX_TOMBSTONES, MailboxLimits, id_seq_pairs

_evict: Final = Script("evict")
#: ``mailbox_senders``：seq → [谁发的, 多急]。
_origins_decoder: Final = msgspec.json.Decoder(dict[int, Origin])


class Evictions:
    """错误同 ``LeanConnection.execute``。"""

    def __init__(self, lean: LeanConnection, keys: Keys, limits: MailboxLimits) -> None:
        self._lean = lean
        self._keys = keys
        self._limits = limits

    async def overfull(self, user_id: int) -> OverfullMailbox:
        """挤之前要知道的一切，一次往返；三条命令之间信箱会变，``mark_evicted`` 再看一遍。"""
        keys = self._keys
        mailbox, graves = keys.mailbox(user_id), keys.evicted_messages(user_id)
        entries, marked, text = await self._lean.execute_many(
            [
                ("ZRANGE", mailbox, 0, -1, "WITHSCORES"),
                ("ZINTER", 2, mailbox, graves),
                ("GET", keys.mailbox_senders(user_id)),
            ]
        )
        leaving = {message_id.decode(): None for message_id in marked}
        held = [entry for entry in id_seq_pairs(entries) if entry[0] not in leaving]
        return OverfullMailbox(held, list(leaving), _origins(text or b"{}"))

    async def mark_evicted(
        self,
        user_id: int,
        chosen: Sequence[str],
        now: int,
        kept: Mapping[int, Origin],
    ) -> list[str]:
        """给选好的立下墓碑，还没有移出；返回这一次立了碑的。原子、幂等，绝不挤到上限以下。

        :param kept: 留下的各条（seq → 谁发的、多急），换掉记着的；空则记着的照旧
        """
        keys, limits = self._keys, self._limits
        marked = await _evict.run(
            self._lean,
            (
                *(keys.mailbox(user_id), keys.mailbox_senders(user_id)),
                *(keys.evicted_messages(user_id), keys.user_seq(user_id)),
            ),
            (
                *(limits.mailbox_max_entries, limits.ttl_ms, MAX_TOMBSTONES, now),
                msgspec.json.encode(kept) if kept else b"",
                *chosen,
            ),
        )
        return [message_id.decode() for message_id in marked]


def _origins(text: bytes) -> dict[int, Origin]:
    """别人写坏的当作不认得，再问一次。"""
    try:
        return _origins_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}

"""主没了、还没有换的那一刻，副本有什么：换上来的缺什么，由它证明，不由产品说。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from meeting_push.errors import MeetingPushError

from .history import HistoryWriter, Kept, KeptSeq, now_ms
from .replicated_redis import Node, ReplicatedRedis, ask, ask_many

#: 隔这么久又什么都没有收到：主临死写出的都读完了。
_QUIET_S: Final = 0.05
_LOOKS: Final = 20


class Witness:
    """``seq_keys``：user_id → 他的 seq 在哪个键。主没了之前就造好，``look`` 在没了之后、换之前。"""

    def __init__(self, copies: Sequence[Node], seq_keys: Mapping[int, str]) -> None:
        self._copies = copies
        self._seq_keys = seq_keys
        self._seen: list[tuple[Node, tuple[KeptSeq, ...]]] = []

    @classmethod
    async def of(cls, redis: ReplicatedRedis, master: Node, seq_keys: Mapping[int, str]) -> Witness:
        holds: Callable[[str], bool] = await redis.holds(master)
        ours = {user_id: key for user_id, key in seq_keys.items() if holds(key)}
        return cls(await redis.copies(master), ours)

    async def look(self) -> None:
        """已经换上来的（机器太忙，看晚了）证明不了什么，不算。"""
        for node, seqs in zip(
            self._copies, await asyncio.gather(*map(self._read, self._copies)), strict=True
        ):
            if seqs is not None:
                self._seen.append((node, seqs))

    async def write(self, history: HistoryWriter) -> None:
        """换过之后：是它换上来的，才是证据。"""
        for node, seqs in self._seen:
            with contextlib.suppress(MeetingPushError):
                if (await ask(node.port, "ROLE"))[0] == b"master":
                    history.write(Kept(at=now_ms(), node=node.child.name, seqs=seqs))

    async def _read(self, copy: Node) -> tuple[KeptSeq, ...] | None:
        before = -1
        with contextlib.suppress(MeetingPushError):
            for _ in range(_LOOKS):
                offset, *seqs, role = await self._ask(copy)
                if role[0] != b"slave":
                    return None
                if offset == before:
                    return tuple(seqs)
                before = offset
                await asyncio.sleep(_QUIET_S)
        return None

    async def _ask(self, copy: Node) -> list[Any]:
        """收到第几个字节了、各人的 seq、还是不是副本：最后才问它。"""
        told, _, *values, role = await ask_many(
            copy.port,
            [
                *(("INFO", "replication"), ("READONLY",)),
                *(("HMGET", key, "epoch", "seq") for key in self._seq_keys.values()),
                ("ROLE",),
            ],
        )
        offset = int(told.decode().partition("slave_repl_offset:")[2].split("\r\n")[0] or -1)
        seqs = [
            KeptSeq(user_id, (epoch or b"").decode(), int(seq or 0))
            for user_id, (epoch, seq) in zip(self._seq_keys, values, strict=True)
        ]
        return [offset, *seqs, role]

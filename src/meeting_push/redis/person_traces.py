"""一个人在 Redis 里的一切：各自的键、每条消息里的一格、索引里的一项、队列里的名单。

都分成小段，一段一两毫秒；键被写坏的不拦着别的。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from .keys import Keys, QueueKeys, literally
from .lean import LeanConnection
from .link import Argument

#: 一次写出这么多条命令。
_CHUNK: Final = 500
#: 找信箱的附属键时一步看多少个键；翻队列时一步几项。
_SCAN: Final = 1_000
_PAGE: Final = 200


class PersonTraces:
    """每个方法幂等；错误是 ``RedisUnavailableError``。"""

    def __init__(self, lean: LeanConnection, keys: Keys, partitions: Sequence[QueueKeys]) -> None:
        self._lean = lean
        self._keys = keys
        unpartitioned = keys.delayed_queue
        self._delayed = list(
            dict.fromkeys(
                [
                    unpartitioned,
                    *(k for each in partitions for k in (each.delayed, each.delayed_bulk)),
                ]
            )
        )
        self._letters = list(
            dict.fromkeys([keys.dead_letter_queue, *(each.dead_letter for each in partitions)])
        )

    async def forget_keys(self, user_id: int) -> None:
        """信箱、日志、号、墓碑、游标、在线状态、座位，与各索引里的他。"""
        keys = self._keys
        connections = await self._lean.execute_many(
            [("HGETALL", keys.online_user(user_id))], tolerant=True
        )
        await self._tolerantly(
            [
                *self._registrations(user_id, connections[0]),
                ("ZREM", keys.online_users_set, user_id),
                ("ZREM", keys.left_users, user_id),
                (
                    "UNLINK",
                    *(keys.online_user(user_id), keys.connection_count(user_id)),
                    *(keys.user_slots(user_id), keys.mailbox(user_id)),
                    *(keys.message_log(user_id), keys.user_seq(user_id)),
                    *(keys.expired_messages(user_id), keys.evicted_messages(user_id)),
                    *(keys.mailbox_senders(user_id), keys.broadcast_cursor(user_id)),
                ),
            ]
        )

    def _registrations(self, user_id: int, flat: Any) -> Iterable[Sequence[Argument]]:
        """各节点的索引里他的连接；哈希坏了的由收拾者收拾。"""
        if not isinstance(flat, list):
            return
        for connection, value in zip(flat[::2], flat[1::2], strict=True):
            try:
                node = msgspec.json.decode(value)["node"]
            except (msgspec.DecodeError, KeyError, TypeError):
                continue
            member = b"%d:%b" % (user_id, connection)
            yield ("SREM", self._keys.node_connections(str(node)), member)

    async def forget_received(self, user_id: int, message_ids: Sequence[str]) -> None:
        """各消息的状态里他的一格。"""
        status = self._keys.delivery_status
        await self._tolerantly([("HDEL", status(i), f"u:{user_id}") for i in message_ids])

    async def forget_written(self, message_ids: Sequence[str]) -> None:
        """他写的正文（要的人从记录重做，那里已是墓碑），状态里的发送者。"""
        keys = self._keys
        await self._tolerantly(
            command
            for i in message_ids
            for command in (
                ("UNLINK", keys.message_body(i)),
                ("HDEL", keys.delivery_status(i), "sender_id", "receipt_to"),
            )
        )

    async def leave_meetings(self, user_id: int, meeting_ids: Sequence[str]) -> None:
        """死节点留下的在场。"""
        his = b"%d:" % user_id
        names = [self._keys.meeting_online(i) for i in meeting_ids]
        found = await self._lean.execute_many([("ZRANGE", n, 0, -1) for n in names], tolerant=True)
        await self._tolerantly(
            ("ZREM", name, *present)
            for name, members in zip(names, found, strict=True)
            if isinstance(members, list)
            and (present := [one for one in members if one.startswith(his)])
        )

    async def forget_origins(self, user_id: int) -> None:
        """别人满过的信箱里记着谁发的：有他的整份丢掉，挤出时再问记录。"""
        match = f"{literally(self._keys.prefix)}mailbox_senders:*"
        marks, cursor = (b"[%d," % user_id, b"[%d]" % user_id), b"0"
        while True:
            cursor, found = await self._lean.execute("SCAN", cursor, "MATCH", match, "COUNT", _SCAN)
            texts = await self._lean.execute_many([("GET", key) for key in found], tolerant=True)
            held = [
                key
                for key, text in zip(found, texts, strict=True)
                if isinstance(text, bytes) and any(mark in text for mark in marks)
            ]
            await self._tolerantly([("UNLINK", key) for key in held])
            if cursor == b"0":
                return

    # ── 队列 ────────────────────────────────────────────────────────────────

    async def forget_queued(self, user_id: int) -> None:
        """预约的、等着重试的、死信：名单里去掉他，只有他的整项去掉。

        流里的不动：消费者做到它时不投递给他，做完就没有了。
        """
        for delayed in self._delayed:
            await self._forget_delayed(delayed, user_id)
        for letters in self._letters:
            await self._forget_letters(letters, user_id)

    async def _forget_delayed(self, delayed: str, user_id: int) -> None:
        cursor = b"0"
        while True:
            cursor, flat = await self._lean.execute("ZSCAN", delayed, cursor, "COUNT", _PAGE)
            for member, score in zip(flat[::2], flat[1::2], strict=True):
                # 一位优先级，随后是 JSON（``due.lua``）
                rest = without(member[1:], user_id)
                if rest is not None:
                    added = [("ZADD", delayed, "NX", score, member[:1] + rest)] if rest else []
                    await self._tolerantly([*added, ("ZREM", delayed, member)])
            if cursor == b"0":
                return

    async def _forget_letters(self, letters: str, user_id: int) -> None:
        start, newest = b"-", await self._lean.execute("XREVRANGE", letters, "+", "-", "COUNT", 1)
        if not newest:
            return
        while page := await self._lean.execute(
            "XRANGE", letters, start, newest[0][0], "COUNT", _PAGE
        ):
            for letter_id, flat in page:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                rest = without(fields.get(b"entry", b""), user_id)
                if rest is not None:
                    fields[b"entry"] = rest
                    parts = [part for pair in fields.items() for part in pair]
                    added = [("XADD", letters, "*", *parts)] if rest else []
                    await self._tolerantly([*added, ("XDEL", letters, letter_id)])
            start = b"(" + page[-1][0]

    async def _tolerantly(self, commands: Iterable[Sequence[Argument]]) -> None:
        """一段一段地写出；键的类型不对的略过。"""
        todo = list(commands)
        for at in range(0, len(todo), _CHUNK):
            await self._lean.execute_many(todo[at : at + _CHUNK], tolerant=True)


def without(entry: bytes, user_id: int) -> bytes | None:
    """队列里的一项，名单里去掉他；只有他则空，没有他（或读不懂）则 None。"""
    if b"%d" % user_id not in entry:
        return None
    try:
        fields = msgspec.json.decode(entry)
        rest = [one for one in fields["recipient_ids"] if one != user_id]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return None
    if len(rest) == len(fields["recipient_ids"]):
        return None
    fields["recipient_ids"] = rest
    return msgspec.json.encode(fields) if rest else b""

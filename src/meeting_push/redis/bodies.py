"""每条消息的：正文（``message_body:<id>``，活到消息过期为止），与开给它的投递状态。

存的字节：两个 ASCII 字符的头，然后是尾（见 ``envelope.encode_tail``）。头 = 编码（``j`` 原文、
``z`` zstd）+ 优先级数字。GETRANGE 0 1 就能知道优先级，不必取出正文。
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Final

import zstandard

from ..errors import MalformedEnvelopeError
from ..logs import logger
from ..model import DEFAULT_TYPE, Outgoing
from .keys import Keys
from .lean import LeanConnection, Script
from .link import Command

HEADER_LENGTH: Final = 2
_PLAIN: Final = b"j"
_ZSTD: Final = b"z"


class _Codec(threading.local):
    """压缩器可复用但不可跨线程共用（嵌入者可能在几个线程里各跑一个事件循环）。"""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=3)
        self.decompressor = zstandard.ZstdDecompressor()


_codec: Final = _Codec()


def encode_body(tail: bytes, priority: int, compress_above: int) -> bytes:
    """``tail`` 超过 ``compress_above`` 字节且压缩后确实更小时才压缩。"""
    if len(tail) > compress_above:
        packed = _codec.compressor.compress(tail)
        if len(packed) < len(tail):
            return b"%b%d%b" % (_ZSTD, priority, packed)
    return b"%b%d%b" % (_PLAIN, priority, tail)


def decode_body(blob: bytes) -> bytes:
    """取出尾。

    :raises MalformedEnvelopeError: 不是 ``encode_body`` 的产物
    """
    header, data = blob[:HEADER_LENGTH], blob[HEADER_LENGTH:]
    codec, priority = header[:1], header[1:]
    if priority.isdigit() and codec == _PLAIN:
        return data
    if priority.isdigit() and codec == _ZSTD:
        try:
            return _codec.decompressor.decompress(data)
        except zstandard.ZstdError:
            raise MalformedEnvelopeError("the stored body does not decompress") from None
    raise MalformedEnvelopeError("the stored body has an unknown header")


def priority_of(header: bytes) -> int | None:
    """头里的优先级；空串（键不存在）或不认识的头则 None。"""
    digit = header[1:HEADER_LENGTH]
    return int(digit) if digit.isdigit() else None


_heads: Final = Script("here", "body_heads")
#: 一次 MGET 至多这么多条：正文可达 64 KB，免得一次回答占住 Redis 与内存。
LOAD_CHUNK: Final = 100
#: 解了这么多字节就让一让：五十条 64 KB 的一气解完要 5 ms，别人的每一帧都等着。
DECODED_AT_ONCE: Final = 512 * 1024
#: 一次至多问这么多条的头：约 1 ms，再大就推迟别人的命令；再小，一只满的信箱要往返太多次。
HEADS_CHUNK: Final = 500

#: 状态至少比消息多活这么久。
KEEP_STATUS_MS: Final = 3_600_000
#: 状态为迟到的确认（推过的刚被挤出）多留这么久：它要据此收回死信、发出回执。
STATUS_LINGERS_MS: Final = 300_000
#: 每个收件人都确认了的，正文与状态再留这么久：断线重连的设备还要从日志补上它；更久以前的问 SQL。
#: 从 SQL 救回来的正文也只留这么久。
OVER_LINGERS_MS: Final = 3_600_000

#: (message_id, 尾, 优先级, 过期时刻)
Body = tuple[str, bytes, int, int]


class Bodies:
    """批量、管道化；不知道收件人。"""

    def __init__(self, lean: LeanConnection, keys: Keys, compress_above: int, ttl_ms: int) -> None:
        """:param ttl_ms: 状态至少活这么久"""
        self._lean = lean
        #: 键名只差 message_id：一批几百条，前面的不必每次再拼。
        self._body_prefix = keys.message_body("")
        self._status_prefix = keys.delivery_status("")
        self._compress_above = compress_above
        self._ttl_ms = ttl_ms

    async def store(self, items: Sequence[Body]) -> None:
        """幂等：有了的不动（也许已换成墓碑）。已过期的会被 Redis 立刻丢掉。"""
        await self._lean.execute_many(self.storing(items))

    async def replace(self, item: Body) -> None:
        """撤回了的：换成墓碑，有没有都行。"""
        [command] = self.storing([item])
        await self._lean.execute(*command[:-1])

    def storing(self, items: Iterable[Body]) -> list[Command]:
        """``store`` 的命令，一条一个。"""
        return [
            (
                *("SET", f"{self._body_prefix}{message_id}"),
                *(encode_body(tail, priority, self._compress_above), "PXAT", expires_at, "NX"),
            )
            for message_id, tail, priority, expires_at in items
        ]

    async def open_status(self, batch: Sequence[Outgoing], now: int) -> list[tuple[str, Exception]]:
        """各开一张状态表：总数、发送者、要不要回执，重试所需的优先级与有效期；返回开不成的。"""
        replies = await self._lean.execute_many(self.opening(batch, now), tolerant=True)
        return unopened(batch, replies)

    def opening(self, batch: Sequence[Outgoing], now: int) -> list[Command]:
        """``open_status`` 的命令，一条两个。"""
        commands: list[Command] = []
        for message, total in ((item.message, len(item.recipient_ids)) for item in batch):
            key = f"{self._status_prefix}{message.message_id}"
            fields: list[str | int] = [
                *("total", total, "sender_id", message.sender_id),
                *("priority", message.priority, "expires_at", message.expires_at),
            ]
            if message.message_type != DEFAULT_TYPE:  # 多数是它：省下每条三十字节
                fields += ["message_type", message.message_type]
            if message.receipt and message.sender_id:
                fields += ["receipt_to", message.sender_id]
            commands.append(("HSET", key, *fields))
            # 预约在很久以后的，也要活到过期清理之后
            until = max(now + self._ttl_ms, message.expires_at + KEEP_STATUS_MS)
            commands.append(("PEXPIREAT", key, until))
        return commands

    async def forget(self, message_ids: Sequence[str]) -> None:
        """谁也不等的：正文现在就删，状态再活 ``STATUS_LINGERS_MS``。幂等。"""
        await self._lean.execute_many(
            [
                command
                for message_id in message_ids
                for command in (
                    ("UNLINK", f"{self._body_prefix}{message_id}"),
                    ("PEXPIRE", f"{self._status_prefix}{message_id}", STATUS_LINGERS_MS),
                )
            ]
        )

    async def priorities(self, message_ids: Sequence[str]) -> list[int | None]:
        """各条的优先级，次序不变；正文不在则 None。不取出正文。"""
        found: list[int | None] = []
        for start in range(0, len(message_ids), HEADS_CHUNK):
            chunk = message_ids[start : start + HEADS_CHUNK]
            found += map(priority_of, await self._heads(self._names(chunk)))
        return found

    async def _heads(self, names: Sequence[str]) -> list[bytes]:
        heads = [b""] * len(names)
        rows = [(name,) for name in names]
        done = await _heads.by_master(self._lean, [HEADER_LENGTH], rows, lambda row: row)
        for some, found in done:
            for at, head in zip(some, found, strict=True):
                heads[at] = head
        return heads

    def _names(self, message_ids: Iterable[str]) -> list[str]:
        return [f"{self._body_prefix}{message_id}" for message_id in message_ids]

    async def load(self, message_ids: Sequence[str]) -> list[bytes | None]:
        """各条的尾，次序不变；不在或已损坏则 None。"""
        tails: list[bytes | None] = []
        for start in range(0, len(message_ids), LOAD_CHUNK):
            chunk = message_ids[start : start + LOAD_CHUNK]
            blobs = await self._lean.values(self._names(chunk))
            decoded = 0
            for pair in zip(chunk, blobs, strict=True):
                tails.append(_decode(*pair))
                decoded += len(tails[-1] or b"")
                if decoded > DECODED_AT_ONCE:
                    decoded = 0
                    await asyncio.sleep(0)
        return tails


def unopened(batch: Sequence[Outgoing], replies: Sequence[object]) -> list[tuple[str, Exception]]:
    """``opening`` 的回答里出了错的。"""
    return [
        (item.message.message_id, reply)
        for item, reply in zip(batch, replies[::2], strict=True)
        if isinstance(reply, Exception)
    ]


def _decode(message_id: str, blob: bytes | None) -> bytes | None:
    if blob is None:
        return None
    try:
        return decode_body(blob)
    except MalformedEnvelopeError as error:
        logger.bind(message_id=message_id, reason=error.message).error("message_body_malformed")
        return None

"""信箱里的洞：哪些 seq 不会再推，为什么（DLV-5）。纯函数。"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..model import MailboxGap
from ..redis.mailboxes import Tombstone


def evicted_gaps(tombstone: Tombstone | None, since_ms: int) -> Iterator[MailboxGap]:
    """墓碑变成的洞；早于 ``since_ms`` 的墓碑与它的消息一起过期了。"""
    if tombstone is not None and tombstone.at >= since_ms:
        yield MailboxGap(tombstone.from_seq, tombstone.to_seq, tombstone.evicted, "evicted")


def expired_gaps(gone: Collection[int], live: Collection[int]) -> Iterator[MailboxGap]:
    """``gone`` 连成的洞；范围里绝不夹着 ``live``，否则客户端会以为它也不来了。"""
    run: list[int] = []
    kept = frozenset(live)
    for seq in sorted({*gone, *kept}):
        if seq not in kept:
            run.append(seq)
        elif run:
            yield _expired(run)
            run = []
    if run:
        yield _expired(run)


def _expired(run: list[int]) -> MailboxGap:
    return MailboxGap(run[0], run[-1], len(run), "expired")

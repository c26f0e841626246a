"""留多久：比 ``days`` 早、对每个收件人都完结了的消息删掉；各进程轮着，一时只有一个在做。

一步只删十到几百行，步与步之间歇得更久：写的人至多等一步。要留底的，写好落盘才删。
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ..errors import InvalidInputError, UnavailableError
from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..private_files import private_file, private_folder
from ..settings import RetentionSettings
from ..storage.archive import BATCH, ArchivedRow, ArchiveRepository, checked
from ..storage.retention import OldMessage, Part, Removed, RetentionRepository
from ..supervision import periodically

DAY_MS: Final = 86_400_000
#: 多久一遍；多久看一次轮到没有。
EVERY_MS: Final = 3_600_000
LOOK_EVERY_S: Final = 60.0
#: 做的人这么久没有动静，别人接着做。
LEASE_MS: Final = 120_000
#: 一页看这么多条消息：一条可有一万个收件人，要一个个看有没有结局。
PAGE: Final = 100
#: 空着的页占四分之一，又不止这么多（4 MB），文件才缩小；一步这么多页。
SHRINK_FROM_PAGES: Final = 1_000
SHRINK_PAGES: Final = 64


Done = TypeVar("Done")


class Steps:
    """一步几行，照上一步用的时间增减；歇它的 ``REST`` 倍，删除至多占写者的十分之一。"""

    LEAST: Final = 10
    MOST: Final = 500
    REST: Final = 9
    PAUSE_S: Final = 0.01

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self.rows = 100

    async def do(self, step: Callable[[], Awaitable[Done]]) -> Done:
        began = time.perf_counter()
        done = await step()
        took = time.perf_counter() - began
        if took > self._target_s:
            self.rows = max(self.LEAST, self.rows // 2)
        elif took < self._target_s / 2:
            self.rows = min(self.MOST, self.rows + max(self.LEAST, self.rows // 4))
        await asyncio.sleep(max(self.PAUSE_S, min(took * self.REST, 1.0)))
        return done


@dataclass(frozen=True, slots=True)
class Outlook:
    """``would_go``：此刻会删几行；``stay``：够旧而没有完结的消息。"""

    would_go: Removed
    stay: int


class Retention:
    """``run`` 由监督者一直运行。``agreed``：各家的钟一致的此刻，删了收不回来。"""

    def __init__(
        self,
        settings: RetentionSettings,
        node: NodeIdentity,
        record: RetentionRepository,
        archive: ArchiveRepository,
        agreed: Callable[[], Awaitable[int]],
    ) -> None:
        self._settings = settings
        self._node = node
        self._record = record
        self._archive = archive
        self._agreed = agreed
        self._deferred = RepeatedWarning("retention_deferred")
        self._told = False
        #: 本进程删掉的，只增。
        self.removed = Removed()
        self.passes = 0

    async def days(self) -> int:
        """留几天，0 = 都留。"""
        said = self._settings.days
        return await self._record.default_days() if said is None else said

    async def run(self) -> None:
        await periodically(self.turn, partial(asyncio.sleep, LOOK_EVERY_S), self._deferred)

    async def turn(self) -> Removed | None:
        """轮到我就做一遍；没有轮到、或都留着，None。

        :raises ClockDisagreesError: 我们的钟与别家对不上；什么也没有删
        """
        days = await self.days()
        if not days:
            self._tell()
            return None
        return await self._turn(days, EVERY_MS)

    async def do_now(self) -> Removed | None:
        """不论到时没有；None：别的进程正在做，或都留着。"""
        days = await self.days()
        return await self._turn(days, 0) if days else None

    async def _turn(self, days: int, every_ms: int) -> Removed | None:
        now, me = await self._agreed(), self._node.id
        if not await self._record.take(me, now, now + LEASE_MS, every_ms):
            return None
        removed = await self._sweep(now, days)
        await self._record.done(me, now + EVERY_MS)
        self.passes += 1
        if removed.messages:
            logger.bind(**removed._asdict(), days=days).info("old_messages_removed")
        return removed

    def _tell(self) -> None:
        if not self._told and self._settings.days is None:
            logger.info("retention_keeps_everything")
        self._told = True

    async def outlook(self, now: int, days: int) -> Outlook:
        """只看不删。"""
        would_go, stay = Removed(), 0
        async for page in self._pages(now, days):
            over = [one for one in page if one.is_over]
            stay += len(page) - len(over)
            would_go = would_go.plus(await self._record.counts([one.message_id for one in over]))
        return Outlook(would_go, stay)

    async def _pages(self, now: int, days: int) -> AsyncIterator[list[OldMessage]]:
        after = ""
        while page := await self._record.page(after, now - days * DAY_MS, now, PAGE):
            yield page
            after = page[-1].message_id

    async def _sweep(self, now: int, days: int) -> Removed:
        total, steps = Removed(), Steps(self._record.step_s)
        folder = self._folder(now)
        began = time.monotonic()
        async for page in self._pages(now, days):
            since_ms = int((time.monotonic() - began) * 1000)
            if not await self._record.keep(self._node.id, now + since_ms + LEASE_MS):
                return total
            over = [one for one in page if one.is_over]
            if over:
                await self._keep_copy(folder, [one.message_id for one in over])
                removed = await self._remove(over, steps)
                total, self.removed = total.plus(removed), self.removed.plus(removed)
        await self._shrink(steps)
        return total

    def _folder(self, now: int) -> ArchiveFolder | None:
        where: Path | None = self._settings.archive_dir
        if where is None:
            return None
        at = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%S")
        return ArchiveFolder(where, f"{at}-{self._node.id}")

    async def _keep_copy(self, folder: ArchiveFolder | None, message_ids: Sequence[str]) -> None:
        if folder is None:
            return
        async for rows in self._archive.rows(message_ids):
            await asyncio.to_thread(folder.write, rows)

    async def _remove(self, over: Sequence[OldMessage], steps: Steps) -> Removed:
        """先收件人，后消息：死在中间，下一遍接着。"""
        ids = [one.message_id for one in over]
        casts = [one.message_id for one in over if one.is_broadcast]
        if casts:
            await self._remove_rows("states", casts, steps)
        removed = Removed(
            recipients=await self._remove_rows("recipients", ids, steps),
            receipts=await self._remove_rows("receipts", casts, steps) if casts else 0,
        )
        for start in range(0, len(ids), Steps.LEAST):
            some = ids[start : start + Steps.LEAST]
            removed = removed.plus(await steps.do(partial(self._record.forget_messages, some)))
        return removed

    async def _remove_rows(self, part: Part, message_ids: Sequence[str], steps: Steps) -> int:
        total = 0
        while pairs := await self._record.rows_of(part, message_ids, steps.rows):
            gone = await steps.do(partial(self._record.forget_rows, part, pairs))
            total += gone
            if not gone:  # 别人锁着，或又变成没有结局的：下一遍再看
                break
        return total

    async def _shrink(self, steps: Steps) -> None:
        """空出来的页多半还会用上；多得用不上了才还给文件系统。"""
        free, pages = await self._record.free_pages()
        if free < SHRINK_FROM_PAGES or free * 4 < pages:
            return
        for _ in range(free // SHRINK_PAGES):
            await steps.do(partial(self._record.shrink, SHRINK_PAGES))


# ── 留底的文件 ───────────────────────────────────────────────────────────────
#
# 压缩的 JSONL，一行一行记录；一遍清理一个文件，一批一个 gzip 成员。写完一批落了盘才许删那一批：任何
# 时刻断电，删掉的都在文件里。半截的最后一批没有删过，读的时候略去。

#: 一个文件满这么大，下一批写进另一个。
MAX_BYTES: Final = 256 * 2**20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_row: Final = msgspec.json.Decoder(ArchivedRow)


class ArchiveFolder:
    """一遍清理用一个；方法都阻塞，在旁边的线程里叫。``label``：文件名里的，各遍不同。"""

    def __init__(self, folder: Path, label: str) -> None:
        self._folder = folder
        self._label = label
        self._number = 0

    @property
    def path(self) -> Path:
        return self._folder / f"messages-{self._label}-{self._number:03d}.jsonl.gz"

    def write(self, rows: Sequence[ArchivedRow]) -> None:
        """追加一批，返回时已落盘。

        :raises UnavailableError: 写不了（``cause`` 是 ``disk_full`` 或 ``archive``）
        """
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        try:
            self._append(gzip.compress(lines, 6))
        except OSError as error:
            cause = "disk_full" if error.errno in _FULL else "archive"
            raise UnavailableError(
                f"the archive can not be written: {error.strerror}", cause=cause
            ) from None

    def _append(self, member: bytes) -> None:
        if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
            self._number += 1
        fresh = not self.path.exists()
        private_folder(self._folder)
        private_file(self.path)
        with self.path.open("ab") as file:
            file.write(member)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync_folder(self._folder)


def _sync_folder(folder: Path) -> None:
    """新文件的名字也要落盘。"""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_archive(path: Path) -> Iterator[list[ArchivedRow]]:
    """各行，一批一批；最后半截的（写到一半断了电）略去。

    :raises InvalidInputError: 打不开，或不是留底的文件
    """
    batch: list[ArchivedRow] = []
    for line in _lines(path):
        try:
            batch.append(checked(_row.decode(line)))
        except msgspec.MsgspecError as error:
            raise InvalidInputError(f"{path}: no archive of messages: {error}") from None
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            try:
                yield from (line for line in file if line.endswith(b"\n"))
            except (EOFError, zlib.error):
                return  # 半截
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror or error}") from None

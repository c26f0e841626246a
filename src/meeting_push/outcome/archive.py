"""留底的文件：压缩的 JSONL，一行一行记录；一遍清理一个文件，一批一个 gzip 成员。

写完一批落了盘才许删那一批：任何时刻断电，删掉的都在文件里。半截的最后一批没有删过，读的时候略去。
"""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ..errors import InvalidInputError, UnavailableError
from ..private_files import private_file, private_folder
from ..storage.archive import BATCH, ArchivedRow, checked

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

"""SQLite 的文件还是不是我们打开的那一个（E8）。

文件被删掉或换掉之后，打开着的连接照样写得成：写进一个谁也找不到的文件，重启就没有了。所以每次
使用之前看一眼（一次 stat，约 1 µs）。
"""

from __future__ import annotations

from pathlib import Path

from ..errors import DatabaseUnavailableError


class SqliteFile:
    """``remember`` 之后才查：在那之前文件可能还没有。"""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._ours: tuple[int, int] | None = None

    def remember(self) -> None:
        """此刻在那里的就是我们的。"""
        self._ours = self._identity()

    def check(self, *, wal_open: bool) -> None:
        """``wal_open``：我们开着它的预写日志，所以那个文件也该在。

        :raises DatabaseUnavailableError: 不是了；放回去就好，放不回去就得恢复备份、重启
        """
        if self._ours is None:
            return
        now = self._identity()
        if now == self._ours and not (wal_open and not self._wal.exists()):
            return
        replaced = now is not None and now != self._ours
        raise DatabaseUnavailableError(
            "the database file was replaced; restart" if replaced else "the database file is gone",
            cause="file_replaced" if replaced else "file_gone",
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

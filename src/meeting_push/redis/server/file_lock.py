"""文件锁（flock）：随文件描述符的关闭而释放，进程怎么死都不会遗留。"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """一把独占锁；可以把描述符传给子进程，由它继承，直到它也死了才释放。"""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    def try_acquire(cls, path: Path) -> Self | None:
        """不等待；被别人持有则 None。"""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @property
    def fd(self) -> int:
        assert self._fd is not None, "released"
        return self._fd

    def close(self) -> None:
        """放手；若子进程继承了描述符，锁仍由它持有。"""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

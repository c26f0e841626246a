"""只有主人读得到的文件与文件夹，不论进程的 umask 是什么（A15）：里面有密码散列与所有人的消息。"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def private_folder(path: Path) -> None:
    """连同还没有的上级，都是 0700；已有的不动：它可能不只是我们的。

    :raises OSError: 造不出
    """
    for folder in reversed([one for one in (path, *path.parents) if not one.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)


def private_file(path: Path) -> None:
    """没有就造一个空的；0600。

    :raises OSError: 造不出
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    keep_private(path)


def keep_private(path: Path) -> None:
    """已有的收回别人的权限；不是我们的或不在则不动。

    :raises OSError: 收不回
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


@contextlib.contextmanager
def written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """``path`` 旁边一份写好、落了盘的，0600；改名或链接过去，任何时刻断电都留下一份完整的。

    :raises OSError: 写不了
    """
    private_folder(path.parent)
    descriptor, name = tempfile.mkstemp(".tmp", path.name, path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)

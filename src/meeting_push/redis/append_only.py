"""内嵌 Redis 的 AOF 的一份：不经过 Redis，服务着也行。

AOF 只在末尾添，重写时换的是另外的文件；``manifest`` 说此刻是哪几个。抄之前、之后它一样，抄下的就是
某一刻的（末尾至多少半条，载入时略去）；变了，多半是刚重写完，再抄一遍。
redis.io/docs/latest/operate/oss_and_stack/management/persistence：“Backing up AOF persistence”。
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError, UnavailableError
from .server_binary import FILE_NAME

FOLDER: Final = "appendonlydir"
MANIFEST: Final = "appendonly.aof.manifest"
#: 0.1 的那一种，载入时自己换成新的。
_SINGLE: Final = "appendonly.aof"
_TRIES: Final = 20
_PAUSE_S: Final = 0.2


def copy_append_only(folder: Path, to: Path) -> list[str]:
    """``folder``（``data/redis``）里要紧的抄到 ``to``，返回各文件的名字；阻塞。

    :raises ConfigurationError: 那里没有 AOF
    :raises UnavailableError: 它一直在变，抄不下来
    """
    for _ in range(_TRIES):
        names = _listed(folder)
        if _copied(folder, to, names) and _listed(folder) == names:
            return [*names, *_note(folder, to)]
        time.sleep(_PAUSE_S)
    raise UnavailableError("the embedded Redis rewrites its files all the time; try again")


def _listed(folder: Path) -> list[str]:
    """此刻的各文件，``manifest`` 在先。"""
    manifest = folder / FOLDER / MANIFEST
    if manifest.exists():
        lines = manifest.read_text("utf-8").splitlines()
        # “file appendonly.aof.1.base.rdb seq 1 type b”；h 是重写完了还没有删的
        files = [line.split()[1] for line in lines if line and not line.endswith(" type h")]
        return [f"{FOLDER}/{MANIFEST}", *(f"{FOLDER}/{name}" for name in files)]
    if (folder / _SINGLE).exists():
        return [_SINGLE]
    raise ConfigurationError(f"{folder} holds no data of an embedded Redis")


def _copied(folder: Path, to: Path, names: list[str]) -> bool:
    try:
        for name in names:
            copy_grown(folder / name, to / name)
    except FileNotFoundError:
        return False
    return True


def copy_grown(source: Path, to: Path) -> None:
    """此刻有多长就抄多长：它还在长。"""
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with source.open("rb") as read, to.open("wb") as write:
        left = source.stat().st_size
        while left and (chunk := read.read(min(left, 2**20))):
            write.write(chunk)
            left -= len(chunk)


def _note(folder: Path, to: Path) -> list[str]:
    """谁写的：别的程序读不读得懂。"""
    if not (folder / FILE_NAME).exists():
        return []
    copy_grown(folder / FILE_NAME, to / FILE_NAME)
    return [FILE_NAME]

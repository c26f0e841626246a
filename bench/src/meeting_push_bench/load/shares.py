"""把连接分给几个进程：谁也不超过打开文件数的硬上限。"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, TypeVar

from ..failure import BenchError
from ..open_files import SPARE_FILES

#: 内核把新连接按散列分给共用端口的进程：多的那个会比平均多几个百分点。
_UNEVEN: Final = 1.05
_LEAST_ROOM: Final = 100

T = TypeVar("T")


def load_processes_for(sockets: int, hard_limit: int, at_least: int = 1) -> int:
    return max(at_least, math.ceil(sockets / _room(hard_limit)))


def gateways_for(sockets: int, hard_limit: int, at_least: int = 1) -> int:
    uneven = _UNEVEN if sockets > _room(hard_limit) else 1
    return max(at_least, math.ceil(sockets * uneven / _room(hard_limit)))


def most_per_gateway(sockets: int, gateways: int) -> int:
    """最多的那个网关会有几条连接；连接少时偏差大，都给它也不多。"""
    return sockets if gateways == 1 else min(sockets, sockets * 3 // (2 * gateways) + 1_000)


def shares(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """连续的 ``parts`` 份，大小至多差一；按原来的次序。"""
    each, more = divmod(len(items), parts)
    bounds = [part * each + min(part, more) for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(bounds)]


def _room(hard_limit: int) -> int:
    """:raises BenchError: 硬上限低到要成百的进程"""
    if hard_limit < SPARE_FILES + _LEAST_ROOM:
        least = SPARE_FILES + _LEAST_ROOM
        raise BenchError(
            f"the hard limit of open files is {hard_limit}; at least {least} are needed"
        )
    return hard_limit - SPARE_FILES

"""打开文件数：把软上限提到硬上限以内够用的地方；子进程继承它。"""

from __future__ import annotations

import resource
from typing import Final

from .failure import BenchError

#: 除连接之外：日志、数据库、Redis、管道 …
SPARE_FILES: Final = 500


def hard_limit() -> int:
    """硬上限；没有上限是一个很大的数。"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 if hard == resource.RLIM_INFINITY else hard


def allow_sockets(count: int) -> None:
    """让本进程及此后启动的子进程各能持有 ``count`` 条连接。

    :raises BenchError: 硬上限不够
    """
    wanted = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
        raise BenchError(f"{count} sockets need {wanted} open files; the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

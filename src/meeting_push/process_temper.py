"""进程的脾气：内存用完就还，循环垃圾少看，能开的文件尽量多。"""

from __future__ import annotations

import ctypes
import gc
import resource
from typing import Final

#: glibc 的 ``mallopt``：至少这么大的单独映射，用完就还给系统；至多这么多个堆。
_M_MMAP_THRESHOLD, _M_ARENA_MAX = (-3, 1024 * 1024), (-8, 2)


def calm_allocator() -> None:
    """大块（几 MB 的请求体、argon2 的 19 MB）用完就还：glibc 默认越用越把它们留在各线程的堆里。

    不是 glibc 的没有它，照旧。
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in (_M_MMAP_THRESHOLD, _M_ARENA_MAX):
            mallopt(parameter, value)


#: 净增这么多对象收一次年轻一代（约 1 ms）；十次收一次中年（约 10 ms）；净增一百万才收整堆。
THRESHOLDS: Final = (2_000, 10, 50)


def calm_collector() -> None:
    """服务开始后调用一次；启动时一直关着（``cli.serve``）：那时造的多半活到最后，收也白收。

    冻结之前也不收：收一遍要 0.15 秒，正在就绪的路上，换来的是一万个小对象（约 1 MB）。
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()


def open_descriptors(most: int = 1_048_576) -> int:
    """把软上限提到硬上限（至多 ``most``），返回它。"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return most if soft == resource.RLIM_INFINITY else soft

"""给测试里的服务器找一个空闲的 TCP 端口。"""

from __future__ import annotations

import os
import random
import socket

#: 低于 Linux 的临时端口段（32768 起）：否则重启期间端口会被某条外出连接占去，
#: 甚至一个反复重连的客户端会连上它自己。
_FIRST, _LAST = 20_000, 32_000
_SHARES = 4
#: 给过的不再给：要它的服务器也许还没有起来，也许正在重启。
_given: set[int] = set()


def free_port() -> int:
    """返回此刻 127.0.0.1 上没有人监听的端口。

    :raises RuntimeError: 试了 100 个都被占用
    """
    for port in random.sample(_mine(), 100):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError("no free port")


def _mine() -> range:
    """几个测试进程一起跑时各有一段：刚找到、还没有监听的，别人不会也找到它。"""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    share = (_LAST - _FIRST) // _SHARES
    start = _FIRST + int(worker) % _SHARES * share
    return range(start, start + share)


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        # 服务器自己也设它；没有它，上次运行留下的 TIME_WAIT 会让空闲的端口看似被占。
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

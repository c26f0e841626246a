"""给要反复重启的服务器找端口：避开临时端口段，免得停机期间被某条外出连接占去。"""

from __future__ import annotations

import random
import socket
from typing import Final

from ..failure import BenchError

#: Linux 的临时端口段从 32768 起。
_FIRST: Final = 20_000
_LAST: Final = 32_000
_TRIES: Final = 100


def free_port() -> int:
    """:raises BenchError: 试了 100 个都被占用"""
    for port in random.sample(range(_FIRST, _LAST), _TRIES):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port")

"""送客：打乱次序，匀着分散在一段时间里，不让所有客户端在同一刻去敲别的门（LESSONS 1）。"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import Final

from ..protocol.codes import CloseCode
from ..protocol.frames import Notice, encode
from ..protocol.session import Phase
from .connection import UserConnection

#: 每秒至多送走这么多：客人少时很快送完，多时由窗口封顶。
PER_S: Final = 200
#: 告诉客户端的重连窗口不短于它：为 0 就是请所有人立刻一起回来。
MIN_RECONNECT_MS: Final = 500
#: 不必等的时候，每送走这么多让别人跑一跑。
CHUNK: Final = 100

#: 值得先打招呼的关闭码 → ``notice`` 的 code。
_NOTICES: Final = {
    CloseCode.SERVER_DRAINING: "draining",
    CloseCode.NODE_UNHEALTHY: "node_unhealthy",
}

#: ``welcome`` 必须是第一帧：还没发它的不打招呼。
_WELCOMED: Final = (Phase.FLUSHING, Phase.LIVE)


def window_s(connections: int, longest_s: float) -> float:
    """送走这么多客人该用多久。"""
    return min(longest_s, connections / PER_S)


async def send_off(connections: Iterable[UserConnection], code: CloseCode, spread_s: float) -> None:
    """给每条连接 ``notice`` 并以 ``code`` 关闭；还在积压的排在最后，好让它们多写出一些。"""
    notice = _notice(code, spread_s)
    leaving = list(connections)
    random.shuffle(leaving)
    leaving.sort(key=lambda each: each.outbox.blocked_since is not None)
    async for connection in _paced(leaving, spread_s):
        if notice is not None and connection.session.phase in _WELCOMED:
            connection.send_all((notice,))
        connection.close(code)


def _notice(code: CloseCode, spread_s: float) -> bytes | None:
    if code not in _NOTICES:
        return None
    after_ms = max(MIN_RECONNECT_MS, int(spread_s * 1000))
    return encode(Notice(code=_NOTICES[code], reconnect_after_ms=after_ms))


async def _paced(
    connections: list[UserConnection], spread_s: float
) -> AsyncIterator[UserConnection]:
    loop = asyncio.get_running_loop()
    started, step_s = loop.time(), spread_s / max(1, len(connections))
    for index, connection in enumerate(connections):
        early_s = started + index * step_s - loop.time()
        if early_s > 0 or index % CHUNK == 0:
            await asyncio.sleep(max(0, early_s))
        yield connection

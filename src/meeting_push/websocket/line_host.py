"""一条连接两头的东西：下面的传输（``Driver``），上面的主人（``LineHost``）与他的计数。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from ..protocol.codes import CloseCode
from ..protocol.commands import Command
from ..protocol.envelope import FrameRun


@dataclass(slots=True)
class LineCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因（LESSONS 17）。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    bytes_pushed: int = 0
    heartbeats: int = 0
    bad_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    #: 在门口拒绝了的连接，按 ``CloseCode.reason``；升级之前的是 ``FOREIGN_ORIGIN``。
    refusals: Counter[str] = field(default_factory=Counter)
    #: 断开了的，各怎样结束的（``Ending``）。
    endings: Counter[str] = field(default_factory=Counter)

    def snapshot(self) -> dict[str, Any]:
        """此刻的各项，按名字。"""
        return {each.name: copy(getattr(self, each.name)) for each in fields(self)}


class Driver(Protocol):
    """传输。都是同步的、立即返回；阻塞与恢复由驱动调用 ``blocked``/``unblocked`` 告知。"""

    def write(self, frame: bytes) -> None:
        """写一帧文本；已断开则无事发生。"""

    def write_run(self, run: FrameRun) -> None:
        """依次写几帧。"""

    def close(self, code: int, reason: str) -> None:
        """发关闭帧，等对方的关闭帧；至多生效一次。"""

    def abort(self) -> None:
        """立即掐断。幂等。"""


class LineHost(Protocol):
    """连接的主人（``Lines``）；都是同步的，不得抛出。"""

    clock: Callable[[], int]

    @property
    def counters(self) -> LineCounters: ...

    def on_command(self, connection: Any, command: Command, /) -> None: ...

    def expel(self, connection: Any, code: CloseCode, /) -> None: ...

    def on_blocked(self, connection: Any, /) -> None: ...

    def on_closing(self, connection: Any, /) -> None: ...

    def on_lost(self, connection: Any, /) -> None: ...

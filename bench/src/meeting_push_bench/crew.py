"""负载的两个进程（持有连接的、发布的）与它们共享的计数；整次运行只启动一次。"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from .load_process import LoadProcess, shared_count


@dataclass(frozen=True, slots=True)
class Crew:
    """计数由 ``holder`` 写（到达的帧数），``publisher`` 读（还有多少在途）。"""

    holder: LoadProcess
    publisher: LoadProcess


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    received = shared_count()
    with LoadProcess(received) as holder, LoadProcess(received) as publisher:
        yield Crew(holder, publisher)

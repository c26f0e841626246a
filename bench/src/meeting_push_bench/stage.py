"""测量的台子：一个服务器，与施加负载的两个进程（整次运行只启动一次）。"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import load_worker
from .failure import BenchError
from .load_process import LoadProcess, Wire, shared_count
from .orders import Connect, Connected, DeviceKind, Disconnect, Disconnected, Order
from .plan import EdgesPlan
from .progress import OnProgress, silent
from .server_under_test import ServerUnderTest
from .target import Target

#: 一个命令最久这么长；正常结束远早于它。
ORDER_TIMEOUT_S = 600.0

A = TypeVar("A", bound=Wire)


@dataclass(frozen=True, slots=True)
class Crew:
    """``holder`` 持有连接，写共享的计数（到达的帧数）；``publisher`` 读它（还有多少在途）。"""

    holder: LoadProcess
    publisher: LoadProcess


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    received = shared_count()
    with (
        LoadProcess(load_worker.main, received) as holder,
        LoadProcess(load_worker.main, received) as publisher,
    ):
        yield Crew(holder, publisher)


@dataclass(frozen=True, slots=True)
class Stage:
    server: ServerUnderTest
    plan: EdgesPlan
    crew: Crew

    @property
    def target(self) -> Target:
        return self.server.target

    def ask(self, order: Order, answer: type[A], on_progress: OnProgress = silent) -> A:
        """请持有连接的进程做一件事。"""
        return self.crew.holder.ask(order, answer, ORDER_TIMEOUT_S, on_progress)

    @contextlib.contextmanager
    def connected(
        self,
        user_ids: Sequence[int],
        devices: int,
        kind: DeviceKind,
        on_progress: OnProgress = silent,
    ) -> Iterator[float]:
        """期间全部在线；产出连接用时（秒）。

        :raises BenchError: 有的没连上，或中途被服务器断开：那样的数字没有意义
        """
        order = Connect(
            target=self.target,
            user_ids=list(user_ids),
            devices=devices,
            kind=kind,
            frame_bytes=self.plan.frame_bytes,
            concurrency=self.plan.connect_concurrency,
            heartbeat_interval_s=self.plan.heartbeat_interval_s,
        )
        yield self.ask(order, Connected, on_progress).elapsed_s
        lost = self.ask(Disconnect(), Disconnected).lost
        if lost:
            raise BenchError(f"the server closed {lost} sockets during the measurement")

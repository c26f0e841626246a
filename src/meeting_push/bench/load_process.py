"""父进程手里的一个负载进程：自己的 OS 进程，于是负载的 CPU 不算在别人头上。"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import time
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from . import load_worker
from .failure import BenchError
from .orders import Answer, Failed, Order, Progress, decode_answer, encode
from .progress import OnProgress

#: spawn：子进程不继承父进程的描述符与线程。
_spawn: Final = multiprocessing.get_context("spawn")
STOP_WAIT_S: Final = 5.0

A = TypeVar("A", bound=Answer)


def shared_count() -> Any:
    """共享的一个 64 位计数：一个写者，读者不加锁。"""
    return _spawn.RawArray("q", 1)


class LoadProcess:
    """同步使用：``ask`` 发一个命令，等它的回答。"""

    def __init__(self, received: Any) -> None:
        """:param received: ``shared_count()``；同一次测量里的各进程共用"""
        self._control, theirs = _spawn.Pipe()
        self._process = _spawn.Process(
            target=load_worker.main, args=(theirs, received), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, "started in __init__"
        return pid

    def ask(self, order: Order, answer: type[A], timeout_s: float, on_progress: OnProgress) -> A:
        """:raises BenchError: 做不成、超时、负载进程死了"""
        deadline = time.monotonic() + timeout_s
        self._send(order)
        while True:
            reply = self._reply(deadline)
            if isinstance(reply, answer):
                return reply
            if isinstance(reply, Failed):
                raise BenchError(reply.reason)
            if not isinstance(reply, Progress):
                raise AssertionError(f"expected {answer.__name__}, got {type(reply).__name__}")
            on_progress(reply.done, reply.total)

    def _send(self, order: Order) -> None:
        try:
            self._control.send_bytes(encode(order))
        except OSError:
            raise BenchError("the load process died") from None

    def _reply(self, deadline: float) -> Answer:
        try:
            if not self._control.poll(max(0, deadline - time.monotonic())):
                raise BenchError("the load process did not finish in time")
            return decode_answer(self._control.recv_bytes())
        except (EOFError, OSError):
            raise BenchError("the load process died") from None

    def stop(self) -> None:
        """断开管道，它自己退出；不退出就杀掉。可重复调用。"""
        self._control.close()
        self._process.join(STOP_WAIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

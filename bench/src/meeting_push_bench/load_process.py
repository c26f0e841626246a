"""父进程手里的一个负载进程：自己的 OS 进程，于是负载的 CPU 不算在别人头上。"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from . import load_worker
from .failure import BenchError
from .orders import Failed, Progress, decode_answer, encode
from .progress import OnProgress

#: spawn：子进程不继承父进程的描述符与线程。
_spawn: Final = multiprocessing.get_context("spawn")
STOP_WAIT_S: Final = 5.0

A = TypeVar("A", bound=msgspec.Struct)
#: 子进程的入口：收下管道的一头与共享的计数。
Main = Callable[[Any, Any], None]


def shared_count(slots: int = 1) -> Any:
    """共享的 64 位计数：每格一个写者，读者不加锁。"""
    return _spawn.RawArray("q", slots)


class LoadProcess:
    """同步使用：``ask`` 发一个命令，等它的回答。"""

    def __init__(
        self,
        received: Any,
        main: Main = load_worker.main,
        decode: Callable[[bytes], msgspec.Struct] = decode_answer,
    ) -> None:
        """:param received: ``shared_count()``；同一次测量里的各进程共用"""
        self._decode = decode
        self._control, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=main, args=(theirs, received), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, "started in __init__"
        return pid

    def ask(
        self, order: msgspec.Struct, answer: type[A], timeout_s: float, on_progress: OnProgress
    ) -> A:
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

    def _send(self, order: msgspec.Struct) -> None:
        try:
            self._control.send_bytes(encode(order))
        except OSError:
            raise BenchError("the load process died") from None

    def _reply(self, deadline: float) -> msgspec.Struct:
        try:
            if not self._control.poll(max(0, deadline - time.monotonic())):
                raise BenchError("the load process did not finish in time")
            return self._decode(self._control.recv_bytes())
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

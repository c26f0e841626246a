"""一个负载进程：自己的 OS 进程，于是负载的 CPU 不算在别人头上。

父进程手里是 ``LoadProcess``，里面是 ``work``；一个命令，一个回答，途中可有若干 ``Progress``。
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.context
import signal
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import msgspec
import uvloop

from .failure import BenchError
from .progress import OnProgress

#: spawn：子进程不继承父进程的描述符与线程。
_spawn: Final = multiprocessing.get_context("spawn")
STOP_WAIT_S: Final = 5.0


class Wire(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """管道里的一句话。"""


class Progress(Wire, frozen=True, kw_only=True):
    done: int
    total: int


class Failed(Wire, frozen=True, kw_only=True):
    reason: str


Control: TypeAlias = "Connection[bytes, bytes]"
#: 子进程的入口：收下管道的一头与共享的计数。
Main = Callable[[Control, Any], None]
#: 做一个命令，给出回答；做不成（``BenchError``）也是一个回答。
Obey = Callable[[Any, OnProgress], Awaitable[Wire]]
A = TypeVar("A", bound=Wire)

_encode: Final = msgspec.msgpack.Encoder().encode


def shared_count(slots: int = 1) -> Any:
    """共享的 64 位计数：每格一个写者，读者不加锁。"""
    return _spawn.RawArray("q", slots)


class LoadProcess:
    """同步使用：``ask`` 发一个命令，等它的回答。"""

    def __init__(self, main: Main, counts: Any = None) -> None:
        """:param counts: ``shared_count()``；同一次测量里的各进程共用"""
        self._control, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=main, args=(theirs, counts), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, "started in __init__"
        return pid

    def ask(self, order: Wire, answer: type[A], timeout_s: float, on_progress: OnProgress) -> A:
        """:raises BenchError: 做不成、超时、负载进程死了"""
        deadline = time.monotonic() + timeout_s
        decode = msgspec.msgpack.Decoder(answer | Failed | Progress).decode
        self._send(order)
        while True:
            reply = decode(self._reply(deadline))
            if isinstance(reply, answer):
                return reply
            if isinstance(reply, Failed):
                raise BenchError(reply.reason)
            on_progress(reply.done, reply.total)

    def _send(self, order: Wire) -> None:
        try:
            self._control.send_bytes(_encode(order))
        except OSError:
            raise BenchError("the load process died") from None

    def _reply(self, deadline: float) -> bytes:
        try:
            if not self._control.poll(max(0, deadline - time.monotonic())):
                raise BenchError("the load process did not finish in time")
            return self._control.recv_bytes()
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


def work(control: Control, orders: object, obey: Obey) -> None:
    """子进程的一生：听一个命令，做，答；父进程一死，管道断开，它就退出。

    :param orders: 命令的类型（几种的并）
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # 终端的 Ctrl-C 只归父进程：它断开管道
    uvloop.run(_obey_all(control, msgspec.msgpack.Decoder(orders), obey))


async def _obey_all(control: Control, decoder: msgspec.msgpack.Decoder[Any], obey: Obey) -> None:
    def on_progress(done: int, total: int) -> None:
        control.send_bytes(_encode(Progress(done=done, total=total)))

    while (order := await asyncio.to_thread(_next, control)) is not None:
        try:
            answer = await obey(decoder.decode(order), on_progress)
        except BenchError as error:
            answer = Failed(reason=error.message)
        control.send_bytes(_encode(answer))


def _next(control: Control) -> bytes | None:
    try:
        return control.recv_bytes()
    except EOFError:
        return None

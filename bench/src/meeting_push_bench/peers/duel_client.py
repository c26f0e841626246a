"""``bench/peers/duel_*.c``：两边共用的客户端，用时才编译。"""

from __future__ import annotations

import contextlib
import random
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from ..failure import BenchError
from .contenders import peers_directory

#: 块里的这二十个字符换成预定的发送时刻。
STAMP: Final = "@" * 20
COMPILER: Final = "gcc"
_SOURCES: Final = ("duel_listener", "duel_sender")
#: 上万条连接全部连上，慢的机器上。
_ANSWER_WAIT_S: Final = 120.0
_SPARE_S: Final = 60.0

T = TypeVar("T", bound=msgspec.Struct)


class Connected(msgspec.Struct, frozen=True):
    up: int
    failed: int
    seconds: float


class Heard(msgspec.Struct, frozen=True):
    """上次问以来；``closed`` 是被服务器断开的。"""

    messages: int
    frames: int
    acks: int
    closed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Published(msgspec.Struct, frozen=True):
    """``late_ms``：发的一方自己最多晚了多少。"""

    sent: int
    late_ms: float
    seconds: float


class Posted(msgspec.Struct, frozen=True):
    """``accepted`` 是消息，``refused`` 是请求。"""

    accepted: int
    refused: int
    seconds: float
    p50_ms: float
    p95_ms: float


def compiler_missing() -> bool:
    return shutil.which(COMPILER) is None


def build(directory: Path) -> None:
    """:raises BenchError: 编译不过"""
    for name in _SOURCES:
        source = peers_directory() / f"{name}.c"
        command = (COMPILER, "-O2", "-o", str(directory / name), str(source))
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BenchError(f"{COMPILER} {source.name}: {done.stderr.strip()[-500:]}")


@dataclass(frozen=True, slots=True)
class Posting:
    """``rate`` 是每秒几条，0 是闭环。"""

    batch: int
    connections: int
    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sender:
    """``duel_sender``：每次一个进程，跑完为止。"""

    directory: Path

    def publish(self, port: int, blocks: Sequence[bytes], rate: float, seconds: float) -> Published:
        """:raises BenchError: Redis 断了"""
        arguments = ("publish", str(port), self._written(blocks), str(rate), str(seconds))
        return self._run(arguments, seconds, Published)

    def post(self, port: int, blocks: Sequence[bytes], how: Posting) -> Posted:
        """:raises BenchError: 服务器断了连接，或不回答"""
        counts = (str(how.batch), str(how.connections), str(how.rate), str(how.seconds))
        return self._run(("post", str(port), self._written(blocks), *counts), how.seconds, Posted)

    def _written(self, blocks: Iterable[bytes]) -> str:
        path = self.directory / f"blocks-{random.getrandbits(32):08x}"
        path.write_bytes(b"".join(b"%d\n%b" % (len(block), block) for block in blocks))
        return str(path)

    def _run(self, arguments: Sequence[str], seconds: float, kind: type[T]) -> T:
        command = (str(self.directory / "duel_sender"), *arguments)
        try:
            done = subprocess.run(  # noqa: S603 — 自己编译的
                command, capture_output=True, text=True, check=False, timeout=seconds + _SPARE_S
            )
        except subprocess.TimeoutExpired:
            raise BenchError("the sending client did not end") from None
        if done.returncode:
            raise BenchError(f"the sending client: {done.stderr.strip()[-500:]}")
        return msgspec.json.decode(done.stdout, type=kind)


class Listener:
    """``duel_listener``：守着全部连接的进程；一次问一个。"""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._in: IO[bytes] = process.stdin
        self._out: IO[bytes] = process.stdout
        self.up = 0

    def connected(self) -> Connected:
        """:raises BenchError: 有的没连上"""
        found = self._answer(Connected)
        self.up = found.up
        if found.failed:
            raise BenchError(f"{found.failed} of {found.up + found.failed} sockets were refused")
        return found

    def storm(self) -> Connected:
        """全部断开，全部连上。

        :raises BenchError: 有的没连上
        """
        self._ask("storm")
        return self.connected()

    def report(self) -> Heard:
        self._ask("report")
        return self._answer(Heard)

    def hear(self, messages: int, grace_s: float) -> Heard:
        """等到一共收到 ``messages`` 条；``grace_s`` 没有新的就不再等。分位数是收到多的那一段的。"""
        parts = [self.report()]
        since = time.monotonic()
        while sum(part.messages for part in parts) < messages:
            time.sleep(0.05)
            parts.append(self.report())
            if parts[-1].messages:
                since = time.monotonic()
            elif time.monotonic() - since > grace_s:
                break
        most = max(parts, key=lambda part: part.messages)
        return msgspec.structs.replace(
            most,
            messages=sum(part.messages for part in parts),
            closed=sum(part.closed for part in parts),
        )

    def _ask(self, command: str) -> None:
        try:
            self._in.write(f"{command}\n".encode())
            self._in.flush()
        except OSError:
            raise BenchError("the listening client ended") from None

    def _answer(self, kind: type[T]) -> T:
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            line = self._out.readline() if selector.select(_ANSWER_WAIT_S) else b""
        if not line:
            raise BenchError("the listening client does not answer")
        return msgspec.json.decode(line, type=kind)


@dataclass(frozen=True, slots=True)
class Listening:
    """``dialect``：``mp`` 或 ``cf``；``window`` 是同时在连的条数。"""

    dialect: str
    port: int
    acking: bool
    window: int = 100


@contextlib.contextmanager
def listening(
    directory: Path, tokens: Sequence[tuple[int, str]], how: Listening
) -> Iterator[Listener]:
    """正在连；连上了没有问 ``connected``。离开时全部断开。"""
    path = directory / f"tokens-{random.getrandbits(32):08x}"
    path.write_text("".join(f"{user_id} {token}\n" for user_id, token in tokens))
    counts = (str(int(how.acking)), str(how.window))
    process = subprocess.Popen(  # noqa: S603 — 自己编译的
        (str(directory / "duel_listener"), how.dialect, str(how.port), str(path), *counts),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield Listener(process)
        finally:
            process.kill()

"""压测自己的 Redis：一台，或几个主平分槽的 Cluster；AOF 与内嵌的相同，都走 TCP。"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from meeting_push.errors import RedisUnavailableError
from meeting_push.launcher import dying_with_us
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.command_link import converse
from meeting_push.redis.embedded import find_server
from meeting_push.redis.link import Argument
from meeting_push.redis.slot_map import SLOTS

from ..failure import BenchError
from ..server_under_test import end, free_port

_HOST: Final = "127.0.0.1"
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.05
_ANSWER_S: Final = 5.0
_AOF: Final = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")


@dataclass(frozen=True, slots=True)
class RedisNodes:
    """``pids``：各台的进程。"""

    url: str
    pids: tuple[int, ...]


@contextlib.contextmanager
def redis_nodes(masters: int) -> Iterator[RedisNodes]:
    """``masters`` 为 0：不是 Cluster 的一台。离开时结束它们，删掉它们的目录。不在事件循环里用。

    :raises BenchError: 起不来
    """
    with (
        tempfile.TemporaryDirectory(prefix="mp-nodes-") as name,
        contextlib.ExitStack() as stack,
    ):
        nodes = [_Node(Path(name), stack, cluster=bool(masters)) for _ in range(max(1, masters))]
        for node in nodes:
            _until(node.answers, "a Redis does not answer")
        if masters:
            _join(nodes)
        hosts = ",".join(f"{_HOST}:{node.port}" for node in nodes)
        yield RedisNodes(
            f"redis{'+cluster' if masters else ''}://{hosts}", tuple(node.pid for node in nodes)
        )


class _Node:
    def __init__(self, directory: Path, stack: contextlib.ExitStack, *, cluster: bool) -> None:
        self.port, self.bus = free_port(), free_port()
        folder = directory / str(self.port)
        folder.mkdir()
        sharing = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus)) if cluster else ()
        command = (
            *(str(find_server().path), "--port", str(self.port), "--bind", _HOST),
            *("--dir", str(folder), "--logfile", str(folder / "redis.log")),
            *_AOF,
            *sharing,
        )
        process = subprocess.Popen(  # noqa: S603 — 我们自己找到的程序
            dying_with_us(*command), stdin=subprocess.DEVNULL
        )
        stack.callback(end, process)
        self.pid = process.pid

    def ask(self, *command: Argument) -> Any:
        address = RedisAddress(host=_HOST, port=self.port)
        return asyncio.run(converse(address, [command], _ANSWER_S, tolerant=False))[0]

    def answers(self) -> bool:
        return bool(self.ask("PING"))

    def is_well(self) -> bool:
        return b"cluster_state:ok" in self.ask("CLUSTER", "INFO")

    def knows(self, count: int) -> bool:
        return len(self.ask("CLUSTER", "NODES").splitlines()) == count


def _join(nodes: list[_Node]) -> None:
    for number, node in enumerate(nodes):
        low, high = (SLOTS * each // len(nodes) for each in (number, number + 1))
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        node.ask("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
    for node, other in permutations(nodes, 2):
        node.ask("CLUSTER", "MEET", _HOST, other.port, other.bus)
    for node in nodes:
        _until(lambda one=node: one.knows(len(nodes)), "the masters do not meet")  # type: ignore[misc]
        _until(node.is_well, "the Cluster is not well")


def _until(true: Callable[[], object], otherwise: str) -> None:
    limit = time.monotonic() + _PATIENCE_S
    while time.monotonic() < limit:
        with contextlib.suppress(RedisUnavailableError):
            if true():
                return
        time.sleep(_POLL_S)
    raise BenchError(otherwise)

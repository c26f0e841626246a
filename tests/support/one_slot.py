"""一台管着全部槽的 Redis（Cluster 模式）与一条按槽分开调用的连接：跨了槽的，服务器自己拒绝。

一条命令的几个键，Cluster 总要查；一段脚本里碰的键（声明了没有的都算），带着 ``#!lua`` 的才查
（redis 的 tests/unit/cluster/scripting.tcl）：我们的不带，在这里替它带上。
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from redis import Redis

from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import Groups, LeanConnection
from meeting_push.redis.link import Argument
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.slot_map import SLOTS, slot_of

from .eventually import wait_until
from .ports import free_port
from .redis_server import RedisServer


class OneSlotServer(RedisServer):
    def __init__(self, binary: Path, directory: Path) -> None:
        bus = ("--cluster-port", str(free_port()))  # 不给就是端口 + 10000，可能越界
        super().__init__(binary, directory, "--cluster-enabled", "yes", *bus)

    def start(self, timeout: float = 10.0) -> Self:
        super().start(timeout)
        with Redis(port=self.port, decode_responses=True) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok", 30)
        return self

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.port}"

    def keys(self, prefix: str = "") -> Keys:
        return Keys(prefix, tagged=True)

    def service(self, prefix: str = "") -> RedisService:
        """不走 Cluster 的连接：那一条不会带上 ``#!lua``。"""
        address = RedisAddress(host="127.0.0.1", port=self.port)
        service = RedisService(address, self.keys(prefix))
        service.lean = SlotLean(address)
        return service


class SlotLean(LeanConnection):
    """``scripts``：执行过的脚本的全文。"""

    def __init__(self, address: RedisAddress) -> None:
        super().__init__(address, name="meeting-push-slots")
        self.scripts: set[bytes] = set()
        self.verbs: set[str] = set()

    def together(self, rows: int, keys_of: Callable[[int], Sequence[Argument]]) -> Groups:
        by_slot: defaultdict[int, list[int]] = defaultdict(list)
        for at in range(rows):
            [slot] = {slot_of(key) for key in keys_of(at)}
            by_slot[slot].append(at)
        return [(some, [key for at in some for key in keys_of(at)]) for some in by_slot.values()]

    def at_once(self, rows: int, key_of: Callable[[int], Argument]) -> Groups:
        return self.together(rows, lambda at: (key_of(at),))

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        return super().execute(*self._strict(args))

    def execute_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        return super().execute_many([self._strict(one) for one in commands], tolerant=tolerant)

    def _strict(self, args: Sequence[Argument]) -> Sequence[Argument]:
        """以 SHA1 叫的一律不认识：都会带着全文再来。别的连接可能已把原样的载入了这台服务器。"""
        self.verbs.add(str(args[0]))
        if args[0] == "EVALSHA":
            return ("EVALSHA", "0" * 40, *args[2:])
        if args[0] != "EVAL":
            return args
        assert isinstance(args[1], bytes)
        self.scripts.add(args[1])
        return ("EVAL", b"#!lua\n" + args[1], *args[2:])

"""两边：怎样启动，令牌、频道、请求各是什么样子。送到的正文两边逐字节相同。"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import jwt
import msgspec

from meeting_push.redis.keys import Keys

from ..load.population import insert_accounts
from ..load.publisher import frame_template
from ..server_under_test import end, free_port, launch, server_environment, wait_ready
from ..target import Target
from .contenders import OURS, accepts
from .duel_client import STAMP

CENTRIFUGO: Final = "centrifugo"
#: 只有一个发送者，一万条连接来自三个地址：缺省的限速保护的是别人，不是这里要量的。
UNLIMITED: Final = {
    "sends_per_user_per_s": 0,
    "fair_share_per_s": 1_000_000,
    "fair_share_burst": 1_000_000,
    "connects_per_s": 1_000_000,
    "connects_burst": 1_000_000,
    "handshakes_per_address_per_s": 1_000_000,
    "handshakes_per_address_burst": 1_000_000,
}
_TITLE_WIDTH: Final = 20
_CONTENT: Final = "x" * 60
_API_KEY: Final = "duel"
_TOKEN_TTL_S: Final = 7_200
#: 用户自己的频道，与大家的频道。
_PERSONAL: Final = "personal:#"
#: 与我们的信箱一样多。
_HISTORY: Final = 1_000
_NEWS: Final = "news"


class Arm(Protocol):
    """一边，已经启动；``target`` 收请求，``socket_port`` 收连接。``pids`` 里没有 Redis。"""

    @property
    def name(self) -> str: ...

    @property
    def dialect(self) -> str: ...

    @property
    def target(self) -> Target: ...

    @property
    def pids(self) -> Sequence[int]: ...

    @property
    def socket_port(self) -> int: ...

    def token(self, user_id: int) -> str: ...

    def accounts(self, count: int) -> list[int]:
        """耐久消息的收件人。"""
        ...

    def publish(self, user_id: int | None, frame_bytes: int) -> bytes:
        """打包好的 PUBLISH；None 是给所有人。"""
        ...

    def posts(self, user_ids: Sequence[int], batched: bool) -> list[bytes]:
        """请求头、正文的头与尾，每个人的一条。"""
        ...


def command(channel: str, payload: bytes) -> bytes:
    name = channel.encode()
    head = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, len(payload))
    return head + payload + b"\r\n"


def frame(size: int) -> bytes:
    """``new_message``，时刻留着没填。"""
    filled: bytes = frame_template(size) % (0, 0)
    return filled.replace(b'"title":"' + b"0" * _TITLE_WIDTH, f'"title":"{STAMP}'.encode())


def _head(path: str, authorization: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()


@dataclass(frozen=True, slots=True)
class Ours:
    target: Target
    pids: Sequence[int]
    socket_port: int
    sql_url: str
    name: str = OURS
    dialect: str = "mp"

    def token(self, user_id: int) -> str:
        return self.target.token(user_id)

    def accounts(self, count: int) -> list[int]:
        turn = secrets.token_hex(4)  # 库里也许有上一轮的
        names = [f"duel-{turn}-{index}" for index in range(count)]
        return asyncio.run(insert_accounts(self.sql_url, names))

    def publish(self, user_id: int | None, frame_bytes: int) -> bytes:
        keys = Keys(self.target.key_prefix)
        channel = keys.broadcast_channel if user_id is None else keys.user_channel(user_id)
        return command(channel, frame(frame_bytes))

    def posts(self, user_ids: Sequence[int], batched: bool) -> list[bytes]:
        path = "/api/v1/messages" + ("/batch" if batched else "")
        head = _head(path, f"Authorization: Bearer {self.token(user_ids[0])}")
        outside = (b'{"messages":[', b"]}") if batched else (b"", b"")
        each = [
            msgspec.json.encode({"recipient_ids": [i], "title": STAMP, "content": _CONTENT})
            for i in user_ids
        ]
        return [head, *outside, *each]


@dataclass(frozen=True, slots=True)
class Centrifugo:
    target: Target
    pids: Sequence[int]
    socket_port: int
    name: str = CENTRIFUGO
    dialect: str = "cf"

    def token(self, user_id: int) -> str:
        """订阅写在令牌里：一次往返就连上并订好，与我们一样。"""
        claims = {
            "sub": str(user_id),
            "exp": int(time.time()) + _TOKEN_TTL_S,
            "channels": [f"{_PERSONAL}{user_id}", _NEWS],
        }
        return jwt.encode(claims, self.target.jwt_secret, algorithm="HS256")

    def accounts(self, count: int) -> list[int]:
        return list(range(1, count + 1))

    def publish(self, user_id: int | None, frame_bytes: int) -> bytes:
        channel = _NEWS if user_id is None else f"{_PERSONAL}{user_id}"
        return command(f"centrifugo.client.{channel}", _publication(frame(frame_bytes)))

    def posts(self, user_ids: Sequence[int], batched: bool) -> list[bytes]:
        head = _head("/api/batch" if batched else "/api/publish", f"X-API-Key: {_API_KEY}")
        outside = (b'{"parallel":true,"commands":[', b"]}") if batched else (b"", b"")
        publishes: list[dict[str, object]] = [
            {"channel": f"{_PERSONAL}{i}", "data": {"title": STAMP, "content": _CONTENT}}
            for i in user_ids
        ]
        each = [msgspec.json.encode({"publish": p} if batched else p) for p in publishes]
        return [head, *outside, *each]


def _publication(data: bytes) -> bytes:
    """它在 Redis 里的样子：protobuf ``Publication{data = 4}``。"""
    size, rest = b"", len(data)
    while rest > 127:
        size, rest = size + bytes([rest & 127 | 128]), rest >> 7
    return b"\x22" + size + bytes([rest]) + data


def _target(redis_url: str) -> Target:
    return Target(
        host="127.0.0.1",
        port=free_port(),
        redis_url=redis_url,
        jwt_secret=secrets.token_urlsafe(32),
        jwt_audience="meeting-push",
    )


@contextlib.contextmanager
def ours(
    directory: Path,
    redis_url: str,
    durable: bool,
    database_url: str | None = None,
    split: bool = False,
) -> Iterator[Ours]:
    """``serve``，一个进程；瞬时的只要网关，``database_url`` 不算。

    :param split: 耐久的分成 api、网关、工人三个进程
    :raises BenchError: 起不来
    """
    sql_url = (durable and database_url) or f"sqlite:///{directory}/data/meeting-push.db"
    shared = {**UNLIMITED, "redis_url": redis_url, "database_url": sql_url}
    roles = (("api", "gateway", "worker") if split else ("all",)) if durable else ("gateway",)
    target = _target(redis_url)
    targets = {role: msgspec.structs.replace(target, port=free_port()) for role in roles}
    with contextlib.ExitStack() as stack:
        pids = [
            stack.enter_context(_serving(directory, one, {**shared, "role": role}))
            for role, one in targets.items()
        ]
        posts, sockets = targets[roles[0]], targets.get("gateway", targets[roles[0]])
        yield Ours(posts, pids, sockets.port, sql_url)


@contextlib.contextmanager
def _serving(directory: Path, target: Target, settings: Mapping[str, object]) -> Iterator[int]:
    log = directory / f"{OURS}-{settings['role']}.log"
    process = launch(directory, server_environment(target, directory, settings), log.name)
    try:
        wait_ready(process, target, log)
        yield process.pid
    finally:
        end(process)


@contextlib.contextmanager
def centrifugo(
    directory: Path, redis_url: str, durable: bool, program: Path
) -> Iterator[Centrifugo]:
    """Redis 引擎；耐久的有历史，断线的人从它补齐。

    :raises BenchError: 起不来
    """
    target = _target(redis_url)
    settings = directory / "centrifugo.json"
    settings.write_bytes(msgspec.json.encode(_settings(target, durable)))
    log = directory / f"{CENTRIFUGO}.log"
    command = (str(program), "-c", str(settings))
    process = launch(directory, dict(os.environ), log.name, command)
    try:
        wait_ready(process, target, log, accepts)
        yield Centrifugo(target, [process.pid], target.port)
    finally:
        end(process)


def _settings(target: Target, durable: bool) -> dict[str, object]:
    namespace: dict[str, object] = {"name": "personal", "allow_user_limited_channels": True}
    if durable:
        namespace |= {
            "history_size": _HISTORY,
            "history_ttl": "168h",
            "force_recovery": True,
            "force_positioning": True,
        }
    return {
        "client": {"token": {"hmac_secret_key": target.jwt_secret}},
        "http_api": {"key": _API_KEY},
        "http_server": {"address": target.host, "port": str(target.port)},
        "engine": {"type": "redis", "redis": {"address": target.redis_url}},
        "channel": {"namespaces": [namespace]},
        "log": {"level": "warn"},
    }

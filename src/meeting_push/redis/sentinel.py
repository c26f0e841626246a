"""问 Sentinel：此刻的主是谁；并问那一台自己是不是（决定 0016）。

每次拨号都现问，什么也不记：记下的会过时。几个 Sentinel 一起问，先答的不等后答的太久，
挂着不答的不算；说法不同时信配置纪元最新的，再由 ``ROLE`` 作证：名单可能还写着死了的、
已降为副本的。全都不在也不碍事：已有的连接照用，只是拨不了新的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from .address import (
    DEFAULT_USERNAME,
    RedisAddress,
    SentinelGroup,
    credentials_refused,
    greeting,
    host_and_port,
)
from .command_link import converse
from .link import Argument, Command

#: 一个 Sentinel、一台被指为主的，各等这么久（不长于一条命令的时限）。
ANSWER_S: Final = 1.0
#: 有一个答了，别的再等这么久：慢的多半是挂着的。
GRACE_S: Final = 0.2
_NAME: Final = "meeting-push-dial"


@dataclass(frozen=True, slots=True)
class Named:
    """一个 Sentinel 的说法；``epoch``：它的配置纪元，每次切换加一。"""

    host: str
    port: int
    epoch: int


async def find_master(address: RedisAddress, timeout_s: float) -> RedisAddress:
    """此刻的主，已由它自己证实；库、用户名、密码、TLS 照 ``address``。

    :raises ConfigurationError: 全都说不行：不是 Sentinel、没有这个服务、密码不对
    :raises RedisUnavailableError: 没有一个 Sentinel 答，或没有一台是主（正在切换）
    """
    assert address.sentinels is not None
    limit_s = min(timeout_s, ANSWER_S)
    named, errors = await _ask_all(address, address.sentinels, limit_s)
    for one in _best_first(named):
        master = replace(address, host=one.host, port=one.port, sentinels=None)
        try:
            await _confirm(master, limit_s)
            return master
        except MeetingPushError as error:
            errors.append(error)
    raise _nobody(address.sentinels, errors)


def _best_first(named: Iterable[Named]) -> list[Named]:
    """新的纪元在前；各台一次。"""
    newest: dict[tuple[str, int], Named] = {}
    for one in sorted(named, key=lambda one: -one.epoch):
        newest.setdefault((one.host, one.port), one)
    return list(newest.values())


def _nobody(group: SentinelGroup, errors: Sequence[MeetingPushError]) -> MeetingPushError:
    said = "; ".join(dict.fromkeys(error.message for error in errors))
    text = f"no master of {group.service}: {said}"
    passing = [error for error in errors if error.temporary]
    if passing:
        return RedisUnavailableError(text, cause=passing[0].cause)
    refused = ConfigurationError(text)
    refused.cause = errors[0].cause
    return refused


async def answering(address: RedisAddress, timeout_s: float) -> tuple[int, list[MeetingPushError]]:
    """几个 Sentinel 答了，别的为什么没有（``doctor``）。"""
    assert address.sentinels is not None
    limit_s = min(timeout_s, ANSWER_S)
    said = await asyncio.gather(
        *(
            _ask(sentinel, address.sentinels.service, limit_s)
            for sentinel in sentinel_addresses(address)
        )
    )
    errors = [one for one in said if not isinstance(one, Named)]
    return len(said) - len(errors), errors


# ── Sentinel ─────────────────────────────────────────────────────────────────


async def _ask_all(
    address: RedisAddress, group: SentinelGroup, limit_s: float
) -> tuple[list[Named], list[MeetingPushError]]:
    asking = {
        asyncio.create_task(_ask(sentinel, group.service, limit_s))
        for sentinel in sentinel_addresses(address)
    }
    named: list[Named] = []
    errors: list[MeetingPushError] = []
    waiting = set(asking)
    try:
        while waiting:
            patience = GRACE_S if named else None
            done, waiting = await asyncio.wait(
                waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                match task.result():
                    case Named() as one:
                        named.append(one)
                    case error:
                        errors.append(error)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return named, errors


def sentinel_addresses(address: RedisAddress) -> list[RedisAddress]:
    """各个 Sentinel 自己的地址；不是一组 Sentinel 的则没有。"""
    group = address.sentinels
    if group is None:
        return []
    return [
        RedisAddress(
            host=host,
            port=port,
            username=group.username,
            password=group.password,
            tls=address.tls,
        )
        for host, port in group.hosts
    ]


async def _ask(sentinel: RedisAddress, service: str, limit_s: float) -> Named | MeetingPushError:
    where = host_and_port(sentinel.host, sentinel.port)
    commands: list[Command] = [
        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
        ("SENTINEL", "MASTER", service),
    ]
    if sentinel.password is not None:
        user = sentinel.username or DEFAULT_USERNAME
        commands.insert(0, ("AUTH", user, sentinel.password))
    try:
        *greeted, master, details = await converse(sentinel, commands, limit_s)
    except MeetingPushError as error:
        if error.cause in ("noauth", "noperm"):
            return _refused(f"the Sentinel at {where} refused the credentials: {error}", error)
        return error
    for reply in greeted:
        if isinstance(reply, MeetingPushError):
            return _refused(f"the Sentinel at {where} refused the credentials: {reply}", reply)
    return _named(where, service, master, details)


def _named(where: str, service: str, master: Any, details: Any) -> Named | MeetingPushError:
    if isinstance(master, MeetingPushError):
        return ConfigurationError(f"{where} is not a Sentinel ({master}); a Redis is redis://…")
    if master is None:
        return ConfigurationError(f"the Sentinel at {where} knows no service {service}")
    host, port = master[0].decode(), int(master[1])
    epoch = 0
    if isinstance(details, list):
        epoch = int(dict(zip(details[::2], details[1::2], strict=False)).get(b"config-epoch", 0))
    return Named(host, port, epoch)


def _refused(text: str, error: MeetingPushError) -> ConfigurationError:
    refused = ConfigurationError(text)
    refused.cause = error.cause
    return refused


# ── 被指为主的 ───────────────────────────────────────────────────────────────


async def _confirm(master: RedisAddress, limit_s: float) -> None:
    """:raises MeetingPushError: 不是主，连不上，或不让进"""
    where = host_and_port(master.host, master.port)
    commands: list[tuple[Argument, ...]] = [*greeting(master, _NAME), ("ROLE",)]
    try:
        *_, role = await converse(master, commands, limit_s, tolerant=False)
    except MeetingPushError as error:
        raise credentials_refused(error) or error from None
    if role[0] != b"master":
        kind = "a Sentinel" if role[0] == b"sentinel" else "a replica"
        raise RedisUnavailableError(f"{where} is {kind}, not the master", cause="readonly")

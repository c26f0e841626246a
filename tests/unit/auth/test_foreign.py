"""应用自己的令牌验证抛出了什么（F4）：每扇门上都是约定的码，令牌的文字不出现在任何地方。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
from loguru import logger
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from meeting_push import MeetingPush, load_settings
from meeting_push.auth.foreign import ForeignVerifier
from meeting_push.errors import (
    DatabaseUnavailableError,
    ForbiddenError,
    InvalidTokenError,
    MeetingPushError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from meeting_push.model import Principal
from tests.support.embedded import hosted
from tests.support.redis_server import RedisServer

#: 不是 JWT 的样子，日志的涂抹认不出它。
TOKEN: Final = "opaque-0123456789-session"
GOOD: Final = "good"

Failure = Callable[[str], object]


def raising(make: Callable[[str], BaseException]) -> Failure:
    def fail(token: str) -> object:
        raise make(f"can not read {token}")

    return fail


INVALID, EXPIRED, BROKEN = (
    (401, "invalid_token", 4500),
    (401, "token_expired", 4004),
    (503, "verifier_unavailable", 4007),
)
CASES: Final[dict[str, tuple[Failure, tuple[int, str, int]]]] = {
    "InvalidSignatureError": (raising(jwt.InvalidSignatureError), INVALID),
    "DecodeError": (raising(jwt.DecodeError), INVALID),
    "ImmatureSignatureError": (raising(jwt.ImmatureSignatureError), INVALID),
    "ValueError": (raising(ValueError), INVALID),
    "KeyError": (raising(KeyError), INVALID),
    "UnicodeError": (lambda token: b"\xff".decode(), INVALID),
    "ours": (raising(InvalidTokenError), INVALID),
    "ExpiredSignatureError": (raising(jwt.ExpiredSignatureError), EXPIRED),
    "ours expired": (raising(TokenExpiredError), EXPIRED),
    "ours revoked": (raising(TokenRevokedError), (401, "revoked", 4502)),
    "ours forbidden": (raising(ForbiddenError), (403, "forbidden", 4501)),
    "ours away": (raising(DatabaseUnavailableError), (503, "database_unavailable", 4007)),
    "ours, not about tokens": (raising(MeetingPushError), BROKEN),
    "RuntimeError": (raising(RuntimeError), BROKEN),
    "ConnectionError": (raising(ConnectionError), BROKEN),
    "TimeoutError": (raising(TimeoutError), BROKEN),
    "AttributeError": (raising(AttributeError), BROKEN),
    "PyJWKClientError": (raising(jwt.PyJWKClientError), BROKEN),
    "ExceptionGroup": (raising(lambda text: ExceptionGroup(text, [OSError(text)])), BROKEN),
    "not a Principal": (lambda token: {"sub": token}, BROKEN),
    "no id": (lambda token: Principal("a b", "user", 1, 2**52, None, None, ""), BROKEN),  # type: ignore[arg-type]
}


class Theirs:
    """应用自己的验证；``failure`` 是对坏令牌的反应。"""

    def __init__(self) -> None:
        self.failure: Failure = raising(RuntimeError)

    async def verify_access_token(self, token: str) -> Principal:
        if token == GOOD:
            return Principal(5, "user", 1, 4_000_000_000_000, None, None, "")
        return self.failure(token)  # type: ignore[return-value]


class Door:
    def __init__(self, address: str, theirs: Theirs) -> None:
        self.address = address
        self.theirs = theirs

    async def rest(self, token: str = TOKEN) -> tuple[int, dict[str, Any], str]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"http://{self.address}/api/v1/messages",
                headers={"authorization": f"Bearer {token}"},
            )
        return answer.status_code, answer.json()["error"], answer.text

    async def close_code(self, path: str) -> int:
        """升级被接受，随即以这个码关闭。"""
        async with connect(f"ws://{self.address}{path}?token={TOKEN}", proxy=None) as socket:
            with contextlib.suppress(ConnectionClosed):
                async with asyncio.timeout(10):
                    while True:
                        await socket.recv()
            assert socket.close_code is not None
            return socket.close_code


@pytest.fixture(params=["native", "asgi"])
async def door(
    request: pytest.FixtureRequest, tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> AsyncIterator[Door]:
    theirs = Theirs()
    settings = load_settings(
        data_dir=tmp_path,
        redis_url=redis7_server.url,
        key_prefix=key_prefix,
        auth_failure_delay_s=0,
        handshake_timeout_s=1,
    )
    push = MeetingPush(settings, verifier=theirs)
    async with hosted(push, native=request.param == "native") as address:
        yield Door(address, theirs)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """应用自己的出口，不经我们的格式与涂抹；回溯里有变量的值，如 loguru 缺省的。"""
    lines: list[str] = []
    number = logger.add(
        lambda text: lines.append(str(text)),
        level="TRACE",
        format="{message} {extra}\n{exception}",
    )
    yield lines
    logger.remove(number)


async def test_f4_every_door_has_the_code_of_what_a_verifier_raises(
    door: Door, log: list[str]
) -> None:
    """F4: 0.1 里 REST 是 500，WebSocket 是永远重连的 4007，日志里有令牌。"""
    for name, (failure, expected) in CASES.items():
        door.theirs.failure = failure
        status, error, text = await door.rest()
        codes = [
            await door.close_code("/ws/user/5/messages"),
            await door.close_code("/ws/meeting/01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ]
        assert (status, error["code"], *codes) == (*expected, expected[2]), name
        assert error["temporary"] is (status == 503), name
        assert TOKEN not in text
    assert not [line for line in log if TOKEN in line or "Traceback" in line]


async def test_f4_a_refreshed_token_that_breaks_the_verifier_is_a_temporary_error(
    door: Door, log: list[str]
) -> None:
    """F4: ``refresh_token`` 帧；连接留着，令牌不出现。"""
    path = f"ws://{door.address}/ws/user/5/messages?token={GOOD}"
    async with connect(path, proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "welcome"
        await socket.send(json.dumps({"type": "refresh_token", "token": TOKEN, "request_id": "r"}))
        text = await asyncio.wait_for(socket.recv(), 10)
    frame = json.loads(text)
    assert (frame["code"], frame["temporary"]) == ("verifier_unavailable", True)
    assert TOKEN not in "".join(log) + str(text)


async def test_f4_a_verifier_that_raises_is_one_line_with_its_class(
    door: Door, log: list[str]
) -> None:
    """F4: 反复出错也只有一行，只写类名。"""
    for _ in range(20):
        await door.rest()
    lines = [line for line in log if "verifier_failed" in line]
    assert len(lines) == 1
    assert "RuntimeError" in lines[0]
    assert not [line for line in log if "can not read" in line]


async def test_f4_a_verifier_that_never_answers_is_given_up(door: Door) -> None:
    """F4: 等它有上限。"""

    async def never(token: str) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    door.theirs.verify_access_token = never  # type: ignore[method-assign]
    status, error, _ = await door.rest()
    assert (status, error["code"]) == (503, "verifier_unavailable")


@pytest.mark.parametrize(
    ("early_s", "expected"), [(60, TokenNotYetValidError), (3_600, InvalidTokenError)]
)
@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_c5_a_token_of_theirs_that_is_minutes_too_early(
    claim: str, early_s: int, expected: type[MeetingPushError]
) -> None:
    theirs, key = Theirs(), "a secret of the application, 32 b"
    theirs.failure = lambda token: jwt.decode(token, key, algorithms=["HS256"])
    early = jwt.encode({"sub": "5", claim: time.time() + early_s}, key)
    with pytest.raises(expected):
        await ForeignVerifier(theirs, timeout_s=5).verify_access_token(early)

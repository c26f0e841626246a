"""裸网关端口的门：同样的陌生人，同样有回答、有限、会断开（LESSONS 23）。"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import repeat

import pytest

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .raw import MB, NOT_CONTENT, answer_to, dial, pour, read_to_end, rss


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("gateway-door")
    settings = {"handshake_timeout_s": 1, "key_prefix": f"{directory.name}:"}
    with ServerProcess(
        directory, redis_url=redis7_server.url, role="gateway", settings=settings
    ) as process:
        yield process


@NOT_CONTENT
def test_a2_what_is_not_content_is_bounded(
    gateway: ServerProcess, start: bytes, endless: bytes
) -> None:
    """A2：裸网关端口上也一样。"""
    before, began = rss(gateway), time.monotonic()
    with dial(gateway) as one:
        pour(one, (start, *repeat(endless, 60 * MB // len(endless))))
        read_to_end(one)
    assert time.monotonic() - began < 5
    assert rss(gateway) - before < 20 * MB


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET /healthz HT", b"408", id="half-a-head"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, b"431", id="endless-head"),
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", b"400", id="tls"),
        pytest.param(
            b"POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n", b"405", id="body"
        ),
        pytest.param(b"GET /ws/user/1 HTTP/1.1\r\nHost: h\r\n\r\n", b"404", id="no-such-path"),
        pytest.param(
            b"GET /nowhere HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nX: " + b"y" * 9_000 + b"\r\n\r\n",
            b"404",
            id="upgrade-elsewhere",
        ),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 500, b"200", id="pipeline"),
    ],
)
def test_a6_everything_is_answered_once_and_closed(
    gateway: ServerProcess, request_: bytes, status: bytes
) -> None:
    """A6、A7：什么样的请求都恰有一个回答，然后断开。"""
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer_to(gateway, request_)) == [status]


def test_a_silent_connection_is_cut_off(gateway: ServerProcess) -> None:
    with dial(gateway) as one:
        assert read_to_end(one) == b""


def test_what_was_turned_away_is_counted(gateway: ServerProcess) -> None:
    answer_to(gateway, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000)
    answer = answer_to(gateway, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    line = next(one for one in answer.split(b"\n") if b'"header_fields_too_large"' in one)
    assert float(line.split()[-1]) >= 1

"""一次 POST：对方怎样都行，我们有时限、有上限、不跟着走、不说出密钥；按 Standard Webhooks 签。"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from meeting_push.errors import ChannelFailedError
from meeting_push.monitoring.notices.channel import Address
from meeting_push.monitoring.notices.text import NoticeWriter
from meeting_push.monitoring.notices.webhook import MOST_ANSWER_BYTES, HttpPost, Webhook
from tests.support.certificate import self_signed
from tests.support.notice_receivers import Received, Reply, http_receiver
from tests.support.notices import alert, channel, notice, resolved

SECRET = "SECRETSECRET"
KEY = b"0123456789abcdef01234567"


async def post(url: str, timeout_s: float = 5.0, body: bytes = b"{}") -> bytes:
    address = Address(f"webhook+{url}")
    return (await HttpPost(address, timeout_s).post(url, {"A": "b"}, body)).body


async def test_the_answer_comes_back() -> None:
    async with http_receiver(lambda got: Reply(str(len(got.body)).encode())) as there:
        assert await post(f"http://{there.host}/hook?a=b", body=b"y" * 100_000) == b"100000"
        (got,) = there.requests
    assert (got.method, got.target, got.headers["a"]) == ("POST", "/hook?a=b", "b")


@pytest.mark.parametrize(
    ("status", "temporary"), [(500, True), (503, True), (429, True), (404, False), (401, False)]
)
async def test_anything_but_2xx_is_a_failure(status: int, temporary: bool) -> None:
    async with http_receiver(lambda _: Reply(b"no", status)) as there:
        with pytest.raises(ChannelFailedError, match=f"HTTP {status}: no") as caught:
            await post(f"http://{there.host}/")
        assert caught.value.temporary is temporary


async def test_a_redirect_is_never_followed() -> None:
    async with http_receiver() as other:
        away = Reply(b"", 302, {"Location": f"http://{other.host}/"})
        async with http_receiver(lambda _: away) as there:
            with pytest.raises(ChannelFailedError, match="302"):
                await post(f"http://{there.host}/")
        assert other.requests == []


async def test_who_hangs_is_left_in_time() -> None:
    async def hang(_: Received) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with http_receiver(hang) as there:
        began = time.monotonic()
        with pytest.raises(ChannelFailedError, match="no answer in"):
            await post(f"http://{there.host}/", timeout_s=0.1)
        assert time.monotonic() - began < 2


async def test_an_endless_answer_is_read_only_so_far() -> None:
    async with http_receiver(lambda _: Reply(b"x" * 5_000_000)) as there:
        assert len(await post(f"http://{there.host}/")) <= MOST_ANSWER_BYTES + 20_000


async def test_what_is_no_http_is_a_failure() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ChannelFailedError, match="no answer"):
            await post(f"http://127.0.0.1:{port}/")


async def test_nobody_there_and_no_such_host_are_failures() -> None:
    async with http_receiver() as gone:
        pass
    for url in (f"http://{gone.host}/", "http://no-such-host.invalid/"):
        with pytest.raises(ChannelFailedError, match="no answer"):
            await post(url)


async def test_what_the_other_side_says_is_one_line_without_our_secrets() -> None:
    said = f"bad\n{SECRET}\x1b[31m" + "x" * 1000
    async with http_receiver(lambda _: Reply(said.encode(), 400)) as there:
        with pytest.raises(ChannelFailedError) as caught:
            await post(f"http://{there.host}/?token={SECRET}")
    assert SECRET not in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


async def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = self_signed(tmp_path)
    async with http_receiver(tls=context) as there:
        with pytest.raises(ChannelFailedError, match="SSLCertVerificationError"):
            await post(f"https://{there.host}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert await post(f"https://{there.host}/") == b"{}"


def verified(got: Received, key: bytes) -> dict[str, Any]:
    """照规范重新算一遍。"""
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    body: dict[str, Any] = json.loads(got.body)
    return body


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain-secret", b"plain-secret"), (f"whsec_{base64.b64encode(KEY).decode()}", KEY)],
)
async def test_a_notice_is_signed_json(secret: str, key: bytes) -> None:
    async with http_receiver() as there:
        hook = Webhook(
            channel(f"webhook+http://{there.host}/hook?team=ops&secret={secret}"),
            NoticeWriter(site="https://push.example"),
            clock=lambda: 1_764_500_000_000,
        )
        await hook.send(notice(alert("a"), resolved("b", "node_lost")))
        (got,) = there.requests
    body = verified(got, key)
    assert got.target == "/hook?team=ops"
    assert got.headers["webhook-timestamp"] == "1764500000"
    assert body["type"] == "alert.firing"
    assert body["data"]["ops"] == "https://push.example/ops"
    first, second = body["data"]["alerts"]
    assert (first["rule"], first["state"], first["value"]) == ("redis_slow", "firing", 0.25)
    assert first["summary"] == {"zh": "Redis 往返慢", "en": "Redis is slow"}
    assert (second["rule"], second["state"]) == ("node_lost", "resolved")


async def test_a_retry_bears_the_same_id() -> None:
    async with http_receiver() as there:
        hook = Webhook(channel(f"webhook+http://{there.host}?secret=s"), NoticeWriter())
        for _ in range(2):
            await hook.send(notice(resolved()))
        ids = [got.headers["webhook-id"] for got in there.requests]
        body = json.loads(there.requests[0].body)
    assert ids == ["01NOTICE", "01NOTICE"]
    assert body["type"] == "alert.resolved"


async def test_without_a_secret_it_is_not_signed() -> None:
    async with http_receiver() as there:
        await Webhook(channel(f"webhook+http://{there.host}"), NoticeWriter()).send(notice())
        assert "webhook-signature" not in there.requests[0].headers

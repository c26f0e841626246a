"""钉钉与企微的机器人：签名、格式、大小；HTTP 200 里说的不。"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from meeting_push.errors import ChannelFailedError
from meeting_push.monitoring.alerts.model import Notice, Text
from meeting_push.monitoring.notices.channel import Sender
from meeting_push.monitoring.notices.robots import DingTalk, WeCom
from meeting_push.monitoring.notices.text import NoticeWriter
from tests.support.notice_receivers import HttpReceiver, Received, Reply, http_receiver
from tests.support.notices import alert, channel, notice

SECRET = "SEC0123456789"
NOW = 1_764_500_000_123


def said(errcode: int, errmsg: str = "no") -> Reply:
    return Reply(json.dumps({"errcode": errcode, "errmsg": errmsg}).encode())


def like_dingtalk(got: Received) -> Reply:
    """钉钉查的那些：密钥、签名、格式、大小。"""
    query, body = got.query, json.loads(got.body)
    signed = f"{query['timestamp']}\n{SECRET}".encode()
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    if query["access_token"] != "TOKEN" or query["sign"] != digest:
        return said(310000, "sign not match")
    if len(got.body) > 20_000 or "secret" in query:
        return said(460101, "message too long")
    if body["msgtype"] != "markdown" or not body["markdown"]["title"]:
        return said(400, "bad format")
    return said(0, "ok")


def like_wecom(got: Received) -> Reply:
    body = json.loads(got.body)
    if got.query != {"key": "KEY"}:
        return said(93000, "invalid webhook url")
    if body["msgtype"] != "markdown" or len(body["markdown"]["content"].encode()) > 4_096:
        return said(40058, "content exceed max length")
    return said(0, "ok")


def dingtalk(there: HttpReceiver, secret: str = SECRET) -> DingTalk:
    url = f"dingtalk+http://{there.host}/robot/send?access_token=TOKEN&secret={secret}"
    return DingTalk(channel(url), NoticeWriter(), clock=lambda: NOW)


def wecom(there: HttpReceiver) -> WeCom:
    url = f"wecom+http://{there.host}/cgi-bin/webhook/send?key=KEY"
    return WeCom(channel(url), NoticeWriter())


def large() -> Notice:
    quoted = Text('"引号\\与换行"' * 20, "x")
    return notice(*(alert(f"a{n}", f"rule_{n % 22}", summary=quoted) for n in range(1000)))


@pytest.mark.parametrize("given", [notice(), large()], ids=["one", "a thousand"])
async def test_dingtalk_takes_what_we_send(given: Notice) -> None:
    async with http_receiver(like_dingtalk) as there:
        assert await dingtalk(there).send(given) == ()
        (got,) = there.requests
    text = json.loads(got.body)["markdown"]["text"]
    assert {one.rule for one in given.alerts} <= {f"rule_{n}" for n in range(22)} | {"redis_slow"}
    assert all(one.rule in text for one in given.alerts)
    assert got.query["timestamp"] == str(NOW)


@pytest.mark.parametrize("given", [notice(), large()], ids=["one", "a thousand"])
async def test_wecom_takes_what_we_send(given: Notice) -> None:
    async with http_receiver(like_wecom) as there:
        assert await wecom(there).send(given) == ()
        (got,) = there.requests
    content = json.loads(got.body)["markdown"]["content"]
    assert all(one.rule in content for one in given.alerts)


async def test_dingtalk_without_a_secret_is_not_signed() -> None:
    async with http_receiver(lambda _: said(0)) as there:
        await dingtalk(there, secret="").send(notice())
        assert there.requests[0].query == {"access_token": "TOKEN"}


async def test_a_wrong_signature_is_a_failure_though_http_says_200() -> None:
    async with http_receiver(like_dingtalk) as there:
        with pytest.raises(ChannelFailedError, match="errcode 310000: sign not match") as caught:
            await dingtalk(there, secret="SECwrong").send(notice())
    assert not caught.value.temporary


@pytest.mark.parametrize(("make", "errcode"), [(dingtalk, 130101), (wecom, 45009)])
async def test_too_fast_is_told_apart_from_broken(make: Any, errcode: int) -> None:
    async with http_receiver(lambda _: said(errcode)) as there:
        sender: Sender = make(there)
        with pytest.raises(ChannelFailedError) as caught:
            await sender.send(notice())
    assert caught.value.slow_down_s == 60


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errcode": "0"}', b"\xff"])
async def test_an_answer_that_is_not_a_robots_is_a_failure(body: bytes) -> None:
    async with http_receiver(lambda _: Reply(body)) as there:
        with pytest.raises(ChannelFailedError, match="not a robot's answer"):
            await wecom(there).send(notice())


async def test_a_robot_that_repeats_our_secret_does_not_get_it_into_the_log() -> None:
    async with http_receiver(lambda _: said(1, f"bad {SECRET}")) as there:
        with pytest.raises(ChannelFailedError) as caught:
            await dingtalk(there).send(notice())
    assert SECRET not in str(caught.value)

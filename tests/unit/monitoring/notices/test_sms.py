"""短信：与两家自己的包发出去的一字不差；回答里的不。"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest
from alibabacloud_tea_openapi.client import Client as AliyunClient
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from darabonba.runtime import RuntimeOptions
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from meeting_push.errors import ChannelFailedError
from meeting_push.monitoring.notices.sms import AliyunSms, TencentSms, acs3
from meeting_push.monitoring.notices.text import NoticeWriter
from tests.support.notice_receivers import HttpReceiver, Received, Reply, http_receiver
from tests.support.notices import channel, notice

KEY_ID, KEY = "AKID0123456789", "KEY0123456789+="
ALIYUN_OK = Reply(b'{"Code":"OK","Message":"OK"}', headers={"Content-Type": "application/json"})
TENCENT_OK = Reply(
    json.dumps(
        {"Response": {"SendStatusSet": [{"Code": "Ok", "PhoneNumber": "+8613800138000"}]}}
    ).encode(),
    headers={"Content-Type": "application/json"},
)


def aliyun(there: HttpReceiver, **given: Any) -> AliyunSms:
    url = (
        f"sms-aliyun+http://{KEY_ID}:{KEY}@{there.host}"
        "?sign=会议推送&template=SMS_123&to=13800138000,13900139000&params=state,rules,summary"
    )
    return AliyunSms(channel(url), NoticeWriter(), **given)


def tencent(there: HttpReceiver, to: str = "13800138000,+85212345678", **given: Any) -> TencentSms:
    url = (
        f"sms-tencent+http://{KEY_ID}:{KEY}@{there.host}"
        f"?app=1400006666&sign=会议推送&template=449739&to={to}&params=state,rules"
    )
    return TencentSms(channel(url), NoticeWriter(), **given)


def ask_aliyun(host: str, query: dict[str, str]) -> None:
    """他们自己的包：``SendSms``。"""
    client = AliyunClient(
        Config(access_key_id=KEY_ID, access_key_secret=KEY, endpoint=host, protocol="HTTP")
    )
    params = Params(
        action="SendSms",
        version="2017-05-25",
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    client.do_request(params, OpenApiRequest(query=query), RuntimeOptions())


def ask_tencent(host: str, body: dict[str, Any]) -> None:
    profile = ClientProfile(
        httpProfile=HttpProfile(endpoint=host, protocol="http"), disable_region_breaker=True
    )
    client = CommonClient(
        "sms", "2021-01-11", Credential(KEY_ID, KEY), "ap-guangzhou", profile=profile
    )
    client.call_json("SendSms", body)


# 别人的包，3.12 起用着弃用了的。
@pytest.mark.filterwarnings("ignore:datetime.datetime.utc:DeprecationWarning")
async def test_aliyun_gets_what_its_own_package_sends() -> None:
    async with http_receiver(lambda _: ALIYUN_OK) as there:
        await aliyun(there, clock=lambda: 1_764_500_000_000, nonce=lambda: "n").send(notice())
        ours = there.requests[0]
        await asyncio.to_thread(ask_aliyun, there.host, ours.query)
        theirs = there.requests[1]
        assert (ours.method, ours.target, ours.body) == (theirs.method, theirs.target, theirs.body)
        signed = theirs.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        assert ours.headers["authorization"].partition("SignedHeaders=")[2].startswith(signed)
        # 用他们的时刻、nonce 与 User-Agent，签名就该一样
        headers = {name: theirs.headers[name] for name in signed.split(";")}
        assert acs3(KEY_ID, KEY, ours.query, headers) == theirs.headers["authorization"]
    assert json.loads(ours.query["TemplateParam"]) == {
        "state": "触发 firing",
        "rules": "redis_slow",
        "summary": "Redis 往返慢",
    }
    assert ours.query["PhoneNumbers"] == "13800138000,13900139000"


# 别人的包，3.12 起用着弃用了的。
@pytest.mark.filterwarnings("ignore:datetime.datetime.utc:DeprecationWarning")
async def test_tencent_gets_what_its_own_package_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_receiver(lambda _: TENCENT_OK) as there:
        await asyncio.to_thread(
            ask_tencent,
            there.host,
            {
                "PhoneNumberSet": ["+8613800138000", "+85212345678"],
                "SmsSdkAppId": "1400006666",
                "SignName": "会议推送",
                "TemplateId": "449739",
                "TemplateParamSet": ["触发 firing", "redis_slow"],
            },
        )
        theirs = there.requests[0]
        at = int(theirs.headers["x-tc-timestamp"])
        await tencent(there, clock=lambda: at * 1000).send(notice())
        ours = there.requests[1]
    assert (ours.method, ours.target, ours.body) == (theirs.method, theirs.target, theirs.body)
    for name in ("authorization", "content-type", "host", "x-tc-action", "x-tc-version"):
        assert ours.headers[name] == theirs.headers[name]
    assert ours.headers["x-tc-region"] == theirs.headers["x-tc-region"]


async def test_a_test_notice_says_so_in_its_template() -> None:
    async with http_receiver(lambda _: ALIYUN_OK) as there:
        await aliyun(there).send(notice(is_test=True))
        assert "测试" in there.requests[0].query["TemplateParam"]


@pytest.mark.parametrize(
    ("code", "temporary"),
    [("isv.SMS_TEMPLATE_ILLEGAL", False), ("Throttling.User", True)],
)
async def test_aliyun_says_no_in_its_body(code: str, temporary: bool) -> None:
    no = Reply(json.dumps({"Code": code, "Message": "no"}).encode())
    async with http_receiver(lambda _: no) as there:
        with pytest.raises(ChannelFailedError, match=code) as caught:
            await aliyun(there).send(notice())
    assert caught.value.temporary is temporary


@pytest.mark.parametrize(
    "response",
    [
        {"Error": {"Code": "AuthFailure.SignatureFailure", "Message": "no"}},
        {"SendStatusSet": [{"Code": "FailedOperation.PhoneNumberInBlacklist"}]},
    ],
)
async def test_tencent_says_no_in_its_body(response: dict[str, Any]) -> None:
    no = Reply(json.dumps({"Response": response}).encode())
    async with http_receiver(lambda _: no) as there:
        with pytest.raises(ChannelFailedError, match="Fail"):
            await tencent(there).send(notice())


async def test_a_number_that_is_refused_does_not_lose_the_others() -> None:
    answer = {
        "Response": {
            "SendStatusSet": [
                {"Code": "Ok", "PhoneNumber": "+8613800138000"},
                {"Code": "LimitExceeded", "PhoneNumber": "+8613900139000"},
            ]
        }
    }
    async with http_receiver(lambda _: Reply(json.dumps(answer).encode())) as there:
        refused = await tencent(there).send(notice())
    assert refused == ("+8613900139000 (LimitExceeded)",)


@pytest.mark.parametrize("make", [aliyun, tencent])
async def test_what_is_no_answer_of_theirs_is_a_failure(make: Any) -> None:
    async with http_receiver(lambda _: Reply(b"<html>")) as there:
        with pytest.raises(ChannelFailedError, match="not an answer"):
            await make(there).send(notice())


async def test_aliyuns_time_is_utc() -> None:
    def answer(got: Received) -> Reply:
        assert datetime.fromisoformat(got.headers["x-acs-date"]).timestamp() == 1_764_500_000
        return ALIYUN_OK

    async with http_receiver(answer) as there:
        await aliyun(there, clock=lambda: 1_764_500_000_999).send(notice())

"""告警文件里的渠道、升级、安静的时段：不对的每一处都是一行话，话里没有密钥。"""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.monitoring.alerts.model import Severity
from meeting_push.monitoring.notices.channel import NoticeConfig
from meeting_push.monitoring.notices.config import notice_config
from meeting_push.monitoring.notices.notifier import Notifier
from meeting_push.monitoring.notices.text import NoticeWriter

SECRET = "SECRETSECRET"
HOOK = {"name": "hook", "url": f"webhook+https://ops.example/hook?secret={SECRET}"}
ROBOT_URL = f"dingtalk+https://oapi.example/robot/send?access_token=T&secret={SECRET}"
MAIL = {"name": "mail", "url": f"mailto://me:{SECRET}@smtp.example?to=ops@example"}
QUIET = {"from": "22:00", "to": "07:00", "tz": "Asia/Shanghai", "pierced_by": "critical"}


def read(
    channels: object = None, escalate: object = None, quiet_hours: object = None
) -> NoticeConfig:
    return notice_config(channels, escalate, quiet_hours)


def test_the_file_of_the_contract_is_read() -> None:
    robot = {"name": "robot", "url": ROBOT_URL, "rate_per_min": 20, "fallback": "mail"}
    config = read(
        [{**HOOK, "min_severity": "info", "group_s": 10}, robot, MAIL],
        [{"after_s": 900, "to": "mail"}],
        QUIET,
    )
    hook, robot_channel, _ = config.channels
    assert (hook.kind, hook.min_severity, hook.group_s) == ("webhook", Severity.INFO, 10)
    assert (robot_channel.kind, robot_channel.fallback) == ("dingtalk", "mail")
    assert [(step.after_s, step.to) for step in config.escalate] == [(900, "mail")]
    assert config.quiet_hours is not None
    assert config.quiet_hours.start == time(22)


def test_without_a_file_alerts_go_to_the_log() -> None:
    assert [channel.address.url for channel in read().channels] == ["log://"]


@pytest.mark.parametrize(("url", "rate"), [(ROBOT_URL, 20), (HOOK["url"], 0)])
def test_only_robots_have_a_rate_unless_it_is_given(url: str, rate: int) -> None:
    (channel,) = read([{"name": "one", "url": url}]).channels
    assert channel.rate_per_min == rate


def test_an_unquoted_time_is_what_yaml_makes_of_it() -> None:
    quiet = read(quiet_hours={**QUIET, "from": 22 * 60}).quiet_hours
    assert quiet is not None
    assert quiet.start == time(22)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channels": []}, "channels"),
        ({"channels": "mail"}, "channels"),
        ({"channels": [7]}, r"channels\[0\]"),
        ({"channels": [{"url": "log://"}]}, "'name'"),
        ({"channels": [{"name": "a"}]}, "'url'"),
        ({"channels": [{"name": "a b", "url": "log://"}]}, "name"),
        ({"channels": [{"name": 7, "url": "log://"}]}, "name"),
        ({"channels": [{"name": "a", "url": 7}]}, "url"),
        ({"channels": [{**HOOK, "colour": "red"}]}, "'colour'"),
        ({"channels": [HOOK, HOOK]}, "twice"),
        ({"channels": [{**HOOK, "min_severity": "dire"}]}, "min_severity"),
        ({"channels": [{**HOOK, "min_severity": None}]}, "min_severity"),
        ({"channels": [{**HOOK, "group_s": -1}]}, "group_s"),
        ({"channels": [{**HOOK, "group_s": float("nan")}]}, "group_s"),
        ({"channels": [{**HOOK, "group_s": True}]}, "group_s"),
        ({"channels": [{**HOOK, "rate_per_min": 1.5}]}, "rate_per_min"),
        ({"channels": [{**HOOK, "language": "fr"}]}, "language"),
        ({"channels": [{**HOOK, "watchdog": "yes"}]}, "watchdog"),
        ({"channels": [{**HOOK, "fallback": 7}]}, "fallback"),
        ({"channels": [{**HOOK, "fallback": "nowhere"}]}, "'nowhere'"),
        ({"channels": [{**HOOK, "fallback": "hook"}]}, "hook -> hook"),
        (
            {"channels": [{**HOOK, "fallback": "mail"}, {**MAIL, "fallback": "hook"}]},
            "hook -> mail -> hook",
        ),
        (
            {"channels": [{**HOOK, "fallback": "mail"}, {**MAIL, "watchdog": True}]},
            "watchdog",
        ),
        ({"channels": [MAIL], "escalate": {"after_s": 1}}, "escalate"),
        ({"channels": [MAIL], "escalate": [{"after_s": 900}]}, "'to'"),
        ({"channels": [MAIL], "escalate": [{"after_s": 900, "to": "boss"}]}, "'boss'"),
        ({"channels": [MAIL], "escalate": [{"after_s": 0, "to": "mail"}]}, "after_s"),
        ({"channels": [MAIL], "escalate": [{"after_s": 9, "to": "mail", "by": 1}]}, "'by'"),
        (
            {
                "channels": [MAIL, HOOK],
                "escalate": [{"after_s": 9, "to": "mail"}, {"after_s": 9, "to": "hook"}],
            },
            "not later",
        ),
        (
            {
                "channels": [MAIL, HOOK],
                "escalate": [
                    {"after_s": 9, "to": "mail"},
                    {"after_s": 99, "to": "hook"},
                    {"after_s": 999, "to": "mail"},
                ],
            },
            "mail -> hook -> mail",
        ),
        ({"quiet_hours": []}, "quiet_hours"),
        ({"quiet_hours": {**QUIET, "from": "25:00"}}, "25:00"),
        ({"quiet_hours": {**QUIET, "from": "7:00"}}, "7:00"),
        ({"quiet_hours": {**QUIET, "to": "22:00"}}, "same"),
        ({"quiet_hours": {**QUIET, "tz": "Asia/Nowhere"}}, "Asia/Nowhere"),
        ({"quiet_hours": {**QUIET, "tz": "../etc/passwd"}}, "time zone"),
        ({"quiet_hours": {**QUIET, "tz": 8}}, "time zone"),
        ({"quiet_hours": {**QUIET, "pierced_by": "loud"}}, "pierced_by"),
        ({"quiet_hours": {**QUIET, "days": "all"}}, "'days'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read(**given)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"://{SECRET}",
        f"webhook+https://h:99999999/{SECRET}",
        f"webhook+https:///hook?secret={SECRET}",
        f"webhook+ftp://h/{SECRET}",
        f"webhook+https://h/ x?secret={SECRET}",
        f"webhook+https://h/?secret=whsec_{SECRET}!",
        f"dingtalk+https://h/robot/send?secret={SECRET}",
        f"wecom+https://h/send?token={SECRET}",
        f"sms-aliyun+https://id:{SECRET}@h?sign=s&template=t",
        f"sms-aliyun+https://id:{SECRET}@h?sign=s&template=t&to=bob",
        f"sms-aliyun+https://id:{SECRET}@h?sign=s&template=t&to=13800138000&params=joke",
        f"sms-aliyun+https://h?sign=s&template=t&to=13800138000&key={SECRET}",
        f"sms-tencent+https://id:{SECRET}@h?sign=s&template=t&to=13800138000",
        f"sms-tencent+https://id:{SECRET}@h?app=1&sign=s&template=t&to=13800138000&x=1",
        f"mailto://me:{SECRET}@smtp.example",
        f"mailto://me:{SECRET}@smtp.example?to=nobody",
        f"mailto://me:{SECRET}@smtp.example?to=a@b&cc=c@d",
        f"mailto://:{SECRET}@?to=a@b",
        f"log://{SECRET}",
        f"nosuchthing://{SECRET}",
    ],
)
def test_a_bad_address_is_said_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Notifier(read([{"name": "bad", "url": url}]), NoticeWriter())
    assert "bad" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_printed_shows_no_secret() -> None:
    assert SECRET not in repr(read([HOOK, MAIL, {"name": "robot", "url": ROBOT_URL}]))

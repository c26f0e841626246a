"""Redis URL 的解析：两种客户端看到同一个地址，密码不外泄。"""

from __future__ import annotations

import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.redis.dial import RedisAddress


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress()),
        ("redis://cache", RedisAddress(host="cache")),
        ("redis://cache:7000/3", RedisAddress(host="cache", port=7000, db=3)),
        ("redis://[::1]:7000", RedisAddress(host="::1", port=7000)),
        ("rediss://cache", RedisAddress(host="cache", tls=True)),
        ("redis://:p%40ss@cache", RedisAddress(host="cache", password="p@ss")),
        ("redis://ann:pw@cache", RedisAddress(host="cache", username="ann", password="pw")),
        ("unix:///run/a%20b.sock", RedisAddress(path="/run/a b.sock")),
        ("unix:///run/r.sock?db=2", RedisAddress(path="/run/r.sock", db=2)),
    ],
)
def test_good_urls_become_addresses(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://:hunter2@cache",
        "redis://:hunter2@cache:port",
        "redis://:hunter2@cache:99999",
        "redis://:hunter2@cache/zero",
        "redis://:hunter2@cache/-1",
        "redis://u:hunter2@[::1",
        "unix://",
    ],
)
def test_a_bad_url_is_refused_without_echoing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisAddress.parse(url)
    assert "hunter2" not in str(caught.value)


def test_neither_str_nor_repr_shows_the_password() -> None:
    address = RedisAddress.parse("redis://ann:hunter2@cache:7000/1")
    assert "hunter2" not in f"{address} {address!r}"


@pytest.mark.parametrize(
    "url", ["redis://cache:7000/1", "rediss://[::1]:7000/0", "unix:///r.sock?db=1"]
)
def test_str_is_a_url_that_parses_back(url: str) -> None:
    assert str(RedisAddress.parse(url)) == url

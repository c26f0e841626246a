"""Redis URL 的解析：两种客户端看到同一个地址，密码不外泄。"""

from __future__ import annotations

import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.redis.address import RedisAddress, SentinelGroup


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
        (
            "redis+cluster://one,two:7000",
            RedisAddress(cluster=(("one", 6379), ("two", 7000))),
        ),
        (
            "rediss+cluster://ann:p%40ss@[::1]:7000,[::2]/0",
            RedisAddress(
                username="ann",
                password="p@ss",
                tls=True,
                cluster=(("::1", 7000), ("::2", 6379)),
            ),
        ),
        (
            "redis+sentinel://one,two:7000/mymaster",
            RedisAddress(sentinels=SentinelGroup("mymaster", (("one", 26379), ("two", 7000)))),
        ),
        (
            "rediss+sentinel://ann:p%40ss@[::1]:7000,[::2]/a%2Fb/3",
            RedisAddress(
                db=3,
                username="ann",
                password="p@ss",
                tls=True,
                sentinels=SentinelGroup("a/b", (("::1", 7000), ("::2", 26379))),
            ),
        ),
        (
            "redis+sentinel://one/m?sentinel_username=bob&sentinel_password=p%26w",
            RedisAddress(
                sentinels=SentinelGroup("m", (("one", 26379),), username="bob", password="p&w")
            ),
        ),
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
        "redis+sentinel://:hunter2@one",
        "redis+sentinel://:hunter2@one/",
        "redis+sentinel://:hunter2@/mymaster",
        "redis+sentinel://:hunter2@one,,two/mymaster",
        "redis+sentinel://:hunter2@one:port/mymaster",
        "redis+sentinel://:hunter2@one/mymaster/zero",
        "redis+sentinel://one/mymaster?password=hunter2",
        "redis+sentinel://one/mymaster?hunter2",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@one,,two",
        "redis+cluster://:hunter2@one:port",
        "redis+cluster://:hunter2@one/1",
        "redis+cluster://one?password=hunter2",
    ],
)
def test_a_bad_url_is_refused_without_echoing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisAddress.parse(url)
    assert "hunter2" not in str(caught.value)


def test_neither_str_nor_repr_shows_the_password() -> None:
    for url in (
        "redis://ann:hunter2@cache:7000/1",
        "redis+sentinel://ann:hunter2@one/mymaster/1?sentinel_password=hunter2",
        "redis+cluster://ann:hunter2@one,two",
    ):
        address = RedisAddress.parse(url)
        assert "hunter2" not in f"{address} {address!r}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:7000/1",
        "rediss://[::1]:7000/0",
        "unix:///r.sock?db=1",
        "redis+sentinel://one:26379,[::1]:7000/mymaster/0",
        "rediss+sentinel://one:26379/a%2Fb/2",
        "redis+cluster://one:7000,[::1]:7001",
        "rediss+cluster://one:7000",
    ],
)
def test_str_is_a_url_that_parses_back(url: str) -> None:
    assert str(RedisAddress.parse(url)) == url

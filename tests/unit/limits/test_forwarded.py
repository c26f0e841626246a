"""``X-Forwarded-For``：从右往左，第一个不可信的就是客户端。"""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.limits.rate import TrustedProxies, rate_key

PROXIES = TrustedProxies(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("203.0.113.1", ["6.6.6.6"], "203.0.113.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("", ["203.0.113.9"], ""),
        ("10.0.0.1", [", ".join(["6.6.6.6"] + ["10.0.0.2"] * 100)], "10.0.0.2"),
    ],
)
def test_the_right_most_untrusted_address_wins(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client_address(peer, forwarded) == client


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert TrustedProxies().client_address("127.0.0.1", ["203.0.113.9"]) == "127.0.0.1"


@given(peer=st.text(max_size=40), forwarded=st.lists(st.text(max_size=80), max_size=4))
def test_no_text_breaks_it(peer: str, forwarded: list[str]) -> None:
    PROXIES.client_address(peer, forwarded)
    rate_key(peer)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:DB8:0:0:9:9:9:9%eth0", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
        ("not:an:address", "not:an:address"),
    ],
)
def test_an_ipv6_site_is_one_client_for_every_limit(address: str, key: str) -> None:
    """A12：IPv6 按 /64，双栈套接字上的 IPv4 与不经双栈的是同一个。"""
    assert rate_key(address) == key

"""反向代理后面的客户端地址：``X-Forwarded-For`` 只从可信的代理那里相信。"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: 至多往回看几跳；再长的是捣乱。
_MAX_HOPS: Final = 32
_IPV6_HOST_BITS: Final = 64


class TrustedProxies:
    """``networks`` 为空（默认）则一律不看这个头，哪怕来自 127.0.0.1。"""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def client_address(self, peer: str, forwarded: Iterable[str]) -> str:
        """TCP 对方是 ``peer``、头是 ``forwarded``（可有几个）时，客户端的地址。

        从右往左，第一个不是可信代理的就是；它左边的都是对方自己写的。读不懂的一跳到此为止，
        算作写下它的那个代理。
        """
        if not self._networks:
            return peer
        address = _parse(peer)
        if address is None:
            return peer
        for hop in reversed(",".join(forwarded).split(",")[-_MAX_HOPS:]):
            if not self._trusts(address):
                break
            before = _parse(hop)
            if before is None:
                break
            address = before
        return str(address)

    def trusts(self, address: str) -> bool:
        """是不是我们信的代理；读不懂的不是。"""
        if not self._networks:
            return False
        parsed = _parse(address)
        return parsed is not None and self._trusts(parsed)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def rate_key(address: str) -> str:
    """凡以地址为键的上限都用它：IPv4 原样，IPv6 按 /64（一个用户就有整个 /64），映射的还原。

    读不懂的（unix socket 没有地址）原样：同一种说法总是同一个键。
    """
    if ":" not in address:
        return address
    parsed = _parse(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    site = int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS
    return f"{ipaddress.IPv6Address(site)}/64"


def _parse(text: str) -> Address | None:
    """``1.2.3.4``、``1.2.3.4:80``、``::1``、``[::1]:80``；映射的 IPv4 还原，zone 去掉。"""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped

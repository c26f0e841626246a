"""听着的套接字上的一小段过滤：连来就走得太快的地址，几毫秒里的 SYN 由内核丢掉。

走一条只要他几十微秒，我们与内核各要十几微秒；丢掉的 SYN 他的内核一秒之后才再发：转得越快越撞得上，
几条手各停一秒，每秒两万条就成了几百条。同一个地址的老实人百分之一撞得上，也只是晚一秒（A14）。
只在 Linux 上；已经连上的一个包也不丢。
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import socket
import struct
import sys
from collections import Counter
from typing import Final

#: 一个地址在这么久（秒）里走了多于这么多条，就是太快：每秒两千条。
COUNTED_S: Final = 0.1
MOST_LEAVERS: Final = 200
#: 丢这么久，隔这么久才再丢，秒：百分之一的时间。短了，忙的机器上那一刻他正好没有轮到跑。
DROPPED_S: Final = 0.01
EVERY_S: Final = 1.0
_ATTACH, _DETACH = 26, 27
#: 经典 BPF 的指令；``_NET`` 起是 IP 头，0 起是 TCP 头。
_WORD, _BYTE, _AND, _EQUALS, _RETURN = 0x20, 0x30, 0x54, 0x15, 0x06
_NET: Final = 0xFFF00000
_ALL: Final = 0xFFFFFFFF
_SYN, _SYN_OR_ACK = 0x02, 0x12


class SynFilter:
    """一个监听者一个；``places`` 都是 ``rate_key`` 的样子。"""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._counts: Counter[str] = Counter()
        self._since = self._dropped_at = float("-inf")
        self._dropping: asyncio.TimerHandle | None = None
        #: 丢过几回。
        self.times = 0

    def note(self, place: str, now: float) -> None:
        """那里又走了一条。"""
        if now - self._since >= COUNTED_S:
            self._counts.clear()
            self._since = now
        self._counts[place] += 1
        if self._counts[place] > MOST_LEAVERS and now - self._dropped_at >= EVERY_S:
            self._drop(place, now)

    def close(self) -> None:
        """套接字要关了；幂等。"""
        if self._dropping is not None:
            self._dropping.cancel()
            self._dropping = None

    def _drop(self, place: str, now: float) -> None:
        program = program_against(place)
        self._dropped_at = now
        if program and _attach(self._sock, program):
            self.times += 1
            self._dropping = self._loop.call_later(DROPPED_S, self._listen_again)

    def _listen_again(self) -> None:
        self._dropping = None
        self._sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


Instruction = tuple[int, int, int, int]


def program_against(place: str) -> list[Instruction]:
    """丢掉那里来的 SYN，别的都收下；不是地址的没有。"""
    try:
        network = ipaddress.ip_network(place)
    except ValueError:
        return []
    raw = network.network_address.packed
    version, start, words = (0x40, 12, 1) if network.version == 4 else (0x60, 8, 2)
    wanted = struct.unpack(f"!{words}I", raw[: 4 * words])
    asked = [(_BYTE, _NET, 0xF0, version)]
    asked += [(_WORD, _NET + start + 4 * n, _ALL, one) for n, one in enumerate(wanted)]
    asked.append((_BYTE, 13, _SYN_OR_ACK, _SYN))
    program: list[Instruction] = []
    for number, (load, offset, mask, value) in enumerate(asked):
        to_the_end = 3 * (len(asked) - number - 1)  # 不等的：跳到最后的“收下”
        program += [(load, 0, 0, offset), (_AND, 0, 0, mask), (_EQUALS, 0, to_the_end + 1, value)]
    return [*program, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _ALL)]


def _attach(sock: socket.socket, program: list[Instruction]) -> bool:
    if sys.platform != "linux":
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    head = struct.pack("@HP", len(program), ctypes.addressof(code))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH, head)
    except OSError:  # 不让装的沙箱：照旧
        return False
    return True

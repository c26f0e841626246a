"""A14：连来就走得太快的地址，它的 SYN 丢一会儿；别处的、已经连上的一个也不丢。"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from meeting_push.http import syn_filter
from meeting_push.http.syn_filter import MOST_LEAVERS, SynFilter, program_against

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="classic BPF on a socket is Linux's"
)

FLOOD = "127.0.0.66"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def dial(listening: socket.socket, source: str, timeout_s: float = 30) -> socket.socket:
    """:raises TimeoutError: 没有回答"""
    return socket.create_connection(listening.getsockname()[:2], timeout_s, (source, 0))


def leave_often(filtered: SynFilter, place: str = FLOOD) -> None:
    for _ in range(MOST_LEAVERS + 1):
        filtered.note(place, 0)


async def test_a14_who_left_too_often_is_not_heard_and_everybody_else_is(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syn_filter, "DROPPED_S", 3_600.0)
    filtered = SynFilter(listening)
    with dial(listening, FLOOD) as before:
        leave_often(filtered)
        with pytest.raises(TimeoutError):
            dial(listening, FLOOD, 0.3)
        with dial(listening, "127.0.0.1"):
            pass
        served, _ = listening.accept()
        with served:  # 早已连上的照常
            before.sendall(b"hello")
            assert served.recv(5) == b"hello"
    filtered.close()


@pytest.mark.timeout(60)
async def test_a14_his_kernel_asks_again_and_gets_in(listening: socket.socket) -> None:
    filtered = SynFilter(listening)
    leave_often(filtered)
    with await asyncio.to_thread(dial, listening, FLOOD):
        assert filtered.times == 1


async def test_a14_it_happens_seldom(listening: socket.socket) -> None:
    filtered = SynFilter(listening)
    for _ in range(3):
        leave_often(filtered)
    assert filtered.times == 1
    filtered.close()


async def test_a14_a_few_who_leave_are_nothing(listening: socket.socket) -> None:
    filtered = SynFilter(listening)
    for second in range(10):
        for _ in range(MOST_LEAVERS):
            filtered.note(FLOOD, second)
    assert filtered.times == 0


@pytest.mark.parametrize("place", ["", "not-an-address", "::1/65"])
async def test_what_is_no_address_is_let_alone(listening: socket.socket, place: str) -> None:
    filtered = SynFilter(listening)
    leave_often(filtered, place)
    assert filtered.times == 0


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_a_site_of_ipv6_is_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syn_filter, "DROPPED_S", 3_600.0)
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        filtered = SynFilter(listening)
        leave_often(filtered, "2001:db8::/64")
        with socket.create_connection(listening.getsockname()[:2], 30):
            pass
        filtered = SynFilter(listening)
        leave_often(filtered, "::/64")
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname()[:2], 0.3)
        filtered.close()


def test_a_program_keeps_all_but_the_syns_of_its_place() -> None:
    for place, instructions in (("10.0.0.1", 11), ("2001:db8::/64", 14)):
        assert len(program_against(place)) == instructions

"""养着的连接：用得上时用，用不上时不坏事。"""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from meeting_push.client import ApiError, RestClient, RestOptions, ServerUnreachableError
from tests.support.certificate import self_signed
from tests.support.scripted_server import message_id

ACCEPTED = json.dumps({"message_id": message_id(1), "recipient_count": 1, "created_at": 5}).encode()
ONCE = RestOptions(retries=0)
Answer = Callable[["Wire", int], Awaitable[None]]


@dataclass
class Wire:
    """一条到达服务器的连接：收到的请求头；``gone`` 为真即客户端已关。"""

    writer: asyncio.StreamWriter
    heads: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, body: bytes = ACCEPTED) -> None:
        head = f"HTTP/1.1 202 Accepted\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)


async def _well(wire: Wire, _: int) -> None:
    await wire.answer()


class KeepingServer:
    """不关连接的服务器；``answer(wire, n)`` 回答一条连接上的第 n 个请求（从 1 数）。"""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.wires: list[Wire] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(writer)
        self.wires.append(wire)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                [length] = [
                    int(line.split(": ")[1])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length")
                ] or [0]
                await reader.readexactly(length)
                wire.heads.append(head)
                await self._answer(wire, len(wire.heads))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            wire.gone.set()
            writer.close()


@asynccontextmanager
async def keeping(
    answer: Answer = _well, secure: ssl.SSLContext | None = None
) -> AsyncIterator[KeepingServer]:
    keeper = KeepingServer(answer)
    server = await asyncio.start_server(keeper.serve, "127.0.0.1", 0, ssl=secure)
    keeper.url = f"http{'s' if secure else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield keeper
    finally:
        server.close()
        for wire in keeper.wires:
            wire.writer.close()
        for wire in keeper.wires:
            await wire.gone.wait()


def _key(head: str) -> str:
    [key] = [line for line in head.split("\r\n") if line.startswith("Idempotency-Key")]
    return key


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with keeping() as server, RestClient(server.url, "t") as rest:
        for _ in range(3):
            await rest.send([1], "t", "c")
        assert [len(wire.heads) for wire in server.wires] == [3]


async def test_a_send_on_a_connection_just_closed_goes_again_with_the_same_key() -> None:
    async def closes_idle(wire: Wire, number: int) -> None:
        if number == 2:
            raise ConnectionError
        await wire.answer()

    async with keeping(closes_idle) as server, RestClient(server.url, "t", options=ONCE) as rest:
        await rest.send([1], "t", "c")
        await rest.send([1], "t", "c")
        first, second = server.wires
    assert _key(first.heads[1]) == _key(second.heads[0]) != _key(first.heads[0])


async def test_a_new_connection_that_closes_is_not_tried_again_at_once() -> None:
    async def closes(wire: Wire, number: int) -> None:
        raise ConnectionError

    async with keeping(closes) as server, RestClient(server.url, "t", options=ONCE) as rest:
        with pytest.raises(ServerUnreachableError):
            await rest.send([1], "t", "c")
        assert len(server.wires) == 1


async def test_what_is_not_idempotent_never_meets_an_idle_connection() -> None:
    async with keeping() as server, RestClient(server.url, "t") as rest:
        await rest.send([1], "t", "c")
        await rest.logout()
        first, second = server.wires
        assert (len(first.heads), len(second.heads)) == (1, 1)
        await asyncio.wait_for(second.gone.wait(), 5)


async def test_a_slow_answer_is_no_answer() -> None:
    async def never(wire: Wire, number: int) -> None:
        await wire.gone.wait()

    options = RestOptions(retries=0, timeout_s=0.05)
    async with keeping(never) as server, RestClient(server.url, "t", options=options) as rest:
        with pytest.raises(ServerUnreachableError):
            await rest.send([1], "t", "c")
        [wire] = server.wires
        wire.gone.set()


async def test_an_answer_that_trickles_is_bounded_in_all() -> None:
    async def trickles(wire: Wire, number: int) -> None:
        wire.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not wire.writer.is_closing():
            wire.writer.write(b" ")
            await asyncio.sleep(0.01)

    options = RestOptions(retries=0, timeout_s=0.1)
    async with keeping(trickles) as server, RestClient(server.url, "t", options=options) as rest:
        with pytest.raises(ServerUnreachableError):
            await asyncio.wait_for(rest.send([1], "t", "c"), 5)


@pytest.mark.parametrize("length", [b"Content-Length: 2000000", b"Transfer-Encoding: chunked"])
async def test_an_answer_larger_than_allowed_is_not_kept(length: bytes) -> None:
    async def floods(wire: Wire, number: int) -> None:
        wire.writer.write(b"HTTP/1.1 202 Accepted\r\n" + length + b"\r\n\r\n1E8480\r\n")
        wire.writer.write(ACCEPTED + b" " * 1_900_000)

    options = RestOptions(retries=0, max_answer_bytes=1_000)
    async with keeping(floods) as server, RestClient(server.url, "t", options=options) as rest:
        with pytest.raises(ApiError) as caught:
            await rest.send([1], "t", "c")
        assert caught.value.code == "unexpected_answer"
        await asyncio.wait_for(server.wires[0].gone.wait(), 5)


async def test_more_calls_than_connections_wait_outside_the_timeout() -> None:
    async def takes_its_time(wire: Wire, number: int) -> None:
        await asyncio.sleep(0.05)
        await wire.answer()

    options = RestOptions(retries=0, timeout_s=0.3, max_connections=2)
    async with (
        keeping(takes_its_time) as server,
        RestClient(server.url, "t", options=options) as rest,
    ):
        await asyncio.gather(*(rest.send([1], "t", "c") for _ in range(20)))
        assert len(server.wires) == 2


async def test_a_cancelled_call_closes_its_connection() -> None:
    asked = asyncio.Event()

    async def holds(wire: Wire, number: int) -> None:
        asked.set()

    async with keeping(holds) as server, RestClient(server.url, "t") as rest:
        call = asyncio.create_task(rest.send([1], "t", "c"))
        await asked.wait()
        call.cancel()
        await asyncio.wait_for(server.wires[0].gone.wait(), 5)


async def test_it_may_be_used_again_after_aclose() -> None:
    async with keeping() as server:
        rest = RestClient(server.url, "t")
        await rest.send([1], "t", "c")
        await rest.aclose()
        await asyncio.wait_for(server.wires[0].gone.wait(), 5)
        await rest.send([1], "t", "c")
        await rest.aclose()
        assert len(server.wires) == 2


async def test_one_forgotten_closes_its_connections_without_a_word() -> None:
    """警告是错误：aiohttp 自己会说 Unclosed client session。"""
    async with keeping() as server:
        rest = RestClient(server.url, "t")
        await rest.send([1], "t", "c")
        del rest
        gc.collect()
        await asyncio.wait_for(server.wires[0].gone.wait(), 5)


async def test_each_event_loop_has_its_own_connections() -> None:
    async with keeping() as server:
        rest = RestClient(server.url, "t")

        async def once() -> None:
            async with rest:
                await rest.send([1], "t", "c")

        await rest.send([1], "t", "c")
        await asyncio.to_thread(lambda: asyncio.run(once()))
        await asyncio.to_thread(lambda: asyncio.run(once()))
        await rest.send([1], "t", "c")
        await rest.aclose()
        assert [len(wire.heads) for wire in server.wires] == [2, 1, 1]


async def test_an_event_loop_that_ends_closes_what_it_kept() -> None:
    async with keeping() as server, RestClient(server.url, "t") as rest:
        await asyncio.to_thread(lambda: asyncio.run(rest.send([1], "t", "c")))
        await asyncio.wait_for(server.wires[0].gone.wait(), 5)
        await rest.send([1], "t", "c")


async def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with keeping() as server, RestClient(server.url, "t", options=ONCE) as rest:
        await rest.send([1], "t", "c")
        assert len(server.wires) == 1


async def test_a_certificate_nobody_vouches_for_is_no_answer(tmp_path: Path) -> None:
    theirs, certificate = self_signed(tmp_path)
    ours = ssl.create_default_context(cafile=str(certificate))
    async with keeping(secure=theirs) as server:
        async with RestClient(server.url, "t", options=ONCE) as doubting:
            with pytest.raises(ServerUnreachableError):
                await doubting.send([1], "t", "c")
        async with RestClient(server.url, "t", options=replace(ONCE, ssl=ours)) as rest:
            await rest.send([1], "t", "c")
            await rest.send([1], "t", "c")
        assert [len(wire.heads) for wire in server.wires] == [2]

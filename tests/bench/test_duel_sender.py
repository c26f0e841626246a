"""``bench/peers/duel_sender.c``：发的一方自己。"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from meeting_push_bench.peers.duel_client import Posting, Sender, build, compiler_missing

KEEP_ALIVE_S: Final = 0.05
HEAD: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
ANSWER: Final = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


async def answer_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """闲过 ``KEEP_ALIVE_S`` 就关掉，像真的服务器那样。"""
    with_body = HEAD.count(b"\r\n")  # 头之后还有 Content-Length 与空行
    try:
        while True:
            async with asyncio.timeout(KEEP_ALIVE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.count(b"\r\n") == with_body + 2
            size = int(head.rsplit(b":", 1)[1])
            await reader.readexactly(size)
            writer.write(ANSWER)
    except (TimeoutError, asyncio.IncompleteReadError):
        writer.close()


@pytest.mark.skipif(compiler_missing(), reason="no gcc")
@pytest.mark.timeout(60)
async def test_an_idle_connection_the_server_closed_is_dialled_again(tmp_path: Path) -> None:
    build(tmp_path)
    server = await asyncio.start_server(answer_and_hang_up, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        posted = await asyncio.to_thread(
            Sender(tmp_path).post, port, [HEAD, b"[", b"]", b"1"], Posting(1, 8, 100.0, 1.0)
        )
    assert (posted.accepted, posted.refused) == (100, 0)

"""裸套接字上的一问一答：httpx 不肯发的也发得出去。"""

from __future__ import annotations

import asyncio
import re


async def request_ids(port: int, request_line: str, *headers: str) -> list[str]:
    """应答里的各个 X-Request-ID；请求是裸的字节。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [request_line, "Host: x", *headers]
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    async with asyncio.timeout(20):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return re.findall(r"^x-request-id: (.*)\r$", answer.decode(), re.MULTILINE | re.IGNORECASE)


async def answer_of(reader: asyncio.StreamReader) -> str:
    """下一个应答的头。"""
    async with asyncio.timeout(20):
        return (await reader.readuntil(b"\r\n\r\n")).decode()

"""收一个用户的消息：登录，处理，自动确认；断线、重启都不漏也不重。

先有一个服务器（``make serve``）和一个账号::

    printf 'a-long-password\n' | meeting-push user create alice
    USERNAME=alice PASSWORD=a-long-password python examples/listen.py

Ctrl-C 结束。环境变量：URL（默认 http://127.0.0.1:8000）、USERNAME、PASSWORD、
STATE（默认 listen-state.json，记着收到了哪里）。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from meeting_push import PushClient, ReceivedMessage, RestClient, Resync, TokenKeeper


async def main() -> None:
    url = os.environ.get("URL", "http://127.0.0.1:8000")
    # 每次连接、每次令牌将到期，客户端都会向它要一枚新的
    tokens = TokenKeeper(RestClient(url), os.environ["USERNAME"], os.environ["PASSWORD"])
    client = PushClient(
        url,
        tokens,
        device_info="examples/listen.py",
        state_path=os.environ.get("STATE", "listen-state.json"),
    )

    @client.on_message
    async def handle(message: ReceivedMessage) -> None:
        # 正常返回就是“已应用”，随后确认；抛出异常则不确认，消息会再来
        sys.stdout.write(f"{message.sender.name}: {message.title} — {message.content}\n")
        sys.stdout.flush()

    def refetch(frame: Resync) -> None:
        sys.stdout.write(f"missed too much ({frame.reason}): fetch the inbox by REST\n")

    client.on("resync", refetch)
    await client.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())

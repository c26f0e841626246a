"""发一条消息，等到每个收件人都有结果（送达、失败或过期）。

::

    USERNAME=alice PASSWORD=a-long-password python examples/send_and_track.py 2,3 Hello "See you"

参数：收件人的用户 id（逗号分隔）、标题、正文。环境变量：URL、USERNAME、PASSWORD。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from meeting_push import PushClient, Receipt, RestClient, TokenKeeper


async def main(recipients: list[int], title: str, content: str) -> None:
    url = os.environ.get("URL", "http://127.0.0.1:8000")
    tokens = TokenKeeper(RestClient(url), os.environ["USERNAME"], os.environ["PASSWORD"])
    rest = RestClient(url, tokens)
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()

    client = PushClient(url, tokens, device_info="examples/send_and_track.py")
    client.on("receipt", receipts.put_nowait)
    async with rest, client:  # 连接养着，下一条就快了
        await client.wait_connected()
        # 返回即已提交到数据库；重试用同一个 Idempotency-Key，不会发成两条
        sent = await rest.send(recipients, title, content, receipt=True)
        sys.stdout.write(f"accepted {sent.message_id} for {sent.recipient_count} recipients\n")
        report = await rest.delivery(sent.message_id)
        while report.pending:
            with contextlib.suppress(TimeoutError):  # 回执是瞬时的，可能丢；记录才算数
                receipt = await asyncio.wait_for(receipts.get(), timeout=5)
                sys.stdout.write(f"user {receipt.recipient_id}: {receipt.status}\n")
            report = await rest.delivery(sent.message_id)
    sys.stdout.write(f"delivered {report.delivered}, failed {report.failed}\n")


if __name__ == "__main__":
    asyncio.run(main([int(part) for part in sys.argv[1].split(",")], sys.argv[2], sys.argv[3]))

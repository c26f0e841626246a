"""只发送的工人：直接写进 SQL 的发件箱，叫醒送信的；不经 REST，也不握着谁的连接。

::

    MEETING_PUSH_DATABASE_URL=… MEETING_PUSH_REDIS_URL=… python examples/publish_only.py < lines

一行一条：收件人的 id、空格、正文。数据库与 Redis 要与 ``meeting-push serve`` 的相同。
"""

from __future__ import annotations

import sys

from meeting_push import Draft, load_settings
from meeting_push.sync import Publisher

BATCH = 100


def main() -> None:
    with Publisher.into_outbox(load_settings()) as publisher:
        batch: list[Draft] = []
        for line in sys.stdin:
            recipient, _, text = line.strip().partition(" ")
            batch.append(Draft(recipient_ids=(int(recipient),), title="News", content=text))
            if len(batch) == BATCH:
                publisher.send_batch(batch)
                batch.clear()
        if batch:
            publisher.send_batch(batch)


if __name__ == "__main__":
    main()

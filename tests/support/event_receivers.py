"""收事件的另一头：验签名，记下收到的每一件，查次序。"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from standardwebhooks import Webhook

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#: 一条消息里各种事件的先后。
ORDER: Final = ("message.accepted", "message.delivered", "message.read")


def verified(body: bytes, headers: Mapping[str, str], secret: str = SECRET) -> list[dict[str, Any]]:
    """一次 POST 里的事件。

    :raises standardwebhooks.WebhookVerificationError: 签名、时刻不对
    """
    found = Webhook(secret).verify(body, dict(headers))
    return found if isinstance(found, list) else [found]


@dataclass
class Journal:
    """收下的；同一个 ``id`` 只算第一次。"""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    again: int = 0

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            if event["id"] in self.events:
                self.again += 1
            self.events.setdefault(event["id"], event)

    def read(self, lines: Iterable[bytes]) -> None:
        """再读几行，每行是一次 POST。"""
        for line in lines:
            self.take(json.loads(line))

    def subjects(self, kind: str) -> list[str]:
        return [e["data"]["message_id"] for e in self.events.values() if e["type"] == kind]

    def out_of_order(self) -> list[str]:
        """后面的先到了的消息。"""
        furthest: dict[str, int] = {}
        found: list[str] = []
        for event in self.events.values():
            subject, place = event["data"]["message_id"], ORDER.index(event["type"])
            if place < furthest.get(subject, 0):
                found.append(subject)
            furthest[subject] = max(place, furthest.get(subject, 0))
        return found

"""出门的事件：谁要哪些，每个接收者一个送的人。"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError
from ..events.config import KINDS, WebhookConfig, load_webhooks
from ..events.delivery import Delivery, Handler, Registered, WebhookPost, registered
from ..events.receiver import SenderFigures, StrayKeeper
from ..events.sender import GIVE_UP_MS, EventSender
from ..node_identity import NodeIdentity
from ..settings import Settings
from ..storage.event_queue import EventQueueRepository
from ..supervision import Supervisor
from .ground import Bus, Record


class EventsOut:
    """:raises ConfigurationError: ``MEETING_PUSH_WEBHOOKS`` 的文件不对"""

    def __init__(self, settings: Settings, node: NodeIdentity, record: Record, bus: Bus) -> None:
        self._settings, self._node, self._bus = settings, node, bus
        self._outbox = record.database.events
        self.queue = EventQueueRepository(record.database)
        self._persons = record.people.persons
        self.webhooks = load_webhooks(settings.events.file)
        self._handlers: list[Registered] = []
        self._senders: list[EventSender] = []
        self._delivers = settings.process.role.delivers
        self._started = False
        for config in self.webhooks:
            self._add_webhook(config)

    def on(self, kind: str, handler: Handler) -> None:
        """见 ``MeetingPush.on``。"""
        if kind not in KINDS:
            raise ConfigurationError(f"no such event: {kind}; known are {', '.join(KINDS)}")
        if self._started:
            raise ConfigurationError("handlers are registered before the start")
        same = sum(1 for one in self._handlers if one.key == registered(kind, handler, 0).key)
        one = registered(kind, handler, same, self._persons)
        self._handlers.append(one)
        self._add(one.key, one.label, one.call, [kind], sends=True)

    def figures(self) -> dict[str, SenderFigures]:
        """标签 → 它的数；只有这个进程送的。"""
        return {sender.name: sender.figures for sender in self._senders}

    @property
    def rows(self) -> int:
        return self._outbox.rows

    def start(self, supervisor: Supervisor) -> None:
        self._started = True
        for sender in self._senders:
            supervisor.start(f"events:{sender.name}", sender.run)
        if self._delivers:
            keeper = StrayKeeper(
                self.queue,
                most_waiting=self._settings.events.most_waiting,
                give_up_ms=GIVE_UP_MS,
                clock=self._bus.clock,
            )
            supervisor.start("event_strays", keeper.run)

    async def stop(self) -> None:
        """在循环停下之后。"""
        for sender in self._senders:
            await sender.stop()

    def _add_webhook(self, config: WebhookConfig) -> None:
        kinds = sorted(config.kinds)
        self._add(
            config.key,
            config.label,
            WebhookPost(config, self._persons),
            kinds,
            sends=self._delivers,
        )

    def _add(
        self, key: str, label: str, delivery: Delivery, kinds: list[str], *, sends: bool
    ) -> None:
        wake: Callable[[], None] = _nobody
        if sends:
            sender = EventSender(
                key,
                label,
                delivery,
                queue=self.queue,
                node=self._node,
                most_waiting=self._settings.events.most_waiting,
                clock=self._bus.clock,
            )
            self._senders.append(sender)
            wake = sender.wake
        self._outbox.subscribe(key, kinds, wake)


def _nobody() -> None:
    """别的进程送：它自己会看见。"""

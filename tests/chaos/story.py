"""合成的历史：先讲一个守住全部承诺的故事，再改动其中一处。"""

from __future__ import annotations

from collections import defaultdict

from meeting_push_bench.chaos.final_state import (
    FinalState,
    Mailbox,
    MessageRow,
    Queued,
    RecipientRow,
    Report,
)
from meeting_push_bench.chaos.history import (
    Acked,
    Answered,
    AnyEvent,
    Began,
    Closed,
    Cried,
    Dialled,
    Ended,
    Gapped,
    Heard,
    Intended,
    Intent,
    Opened,
    Push,
    Received,
    Resynced,
    Settled,
    title,
)
from meeting_push_bench.chaos.plan import QUICK

SENDER = 100
EPOCH = "e1"
Pair = tuple[int, str]


class Story:
    """自己记着每个用户的 seq、信箱与状态，像一个正确的服务器；``events`` 可以直接改。"""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.events: list[AnyEvent] = [Began(at=self.now, plan=QUICK)]
        self.statuses: dict[Pair, tuple[str, int | None]] = {}
        self.mailboxes: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self.seqs: defaultdict[int, int] = defaultdict(int)
        self.queued: list[Queued] = []
        self.dead: list[Queued] = []
        self.rows: list[MessageRow] = []
        self.seq_of: dict[Pair, int] = {}
        self._users: dict[int, int] = {}
        self._titles: dict[str, str] = {}
        self._priorities: dict[str, int] = {}
        self._posts = self._cried = 0

    def add(self, event: AnyEvent) -> int:
        """追加一个事件，返回它的序号。"""
        self.events.append(event)
        self.now += 10
        return len(self.events) - 1

    # ── 发送 ────────────────────────────────────────────────────────────────

    def intend(
        self,
        *recipients: int,
        priority: int = 0,
        hold: bool = False,
        later: bool = False,
        key: str | None = None,
    ) -> int:
        """要发一条，返回 post。"""
        post, self._posts = self._posts, self._posts + 1
        intent = Intent(recipients=recipients, priority=priority, crc=7, hold=hold, later=later)
        self.add(Intended(at=self.now, post=post, sender_id=SENDER, key=key, intents=(intent,)))
        return post

    def store(self, post: int, *recipients: int, priority: int = 0) -> str:
        """提交进 SQL，返回 id；还没有回答。"""
        message_id = f"{len(self.rows):026d}"
        self._titles[message_id], self._priorities[message_id] = title(post, 0), priority
        self.rows.append(MessageRow(message_id, SENDER, title(post, 0), priority, False))
        for user_id in recipients:
            self.statuses[user_id, message_id] = ("pending", None)
        return message_id

    def answer(self, post: int, *message_ids: str, status: int = 202) -> None:
        self.add(Answered(at=self.now, post=post, status=status, message_ids=message_ids))

    def send(self, *recipients: int, priority: int = 0, hold: bool = False) -> str:
        """发一条，接受，投递进各人的信箱。"""
        post = self.intend(*recipients, priority=priority, hold=hold)
        message_id = self.store(post, *recipients, priority=priority)
        self.answer(post, message_id)
        for user_id in recipients:
            self.deliver(user_id, message_id)
        return message_id

    def deliver(self, user_id: int, message_id: str) -> None:
        self.seqs[user_id] += 1
        self.seq_of[user_id, message_id] = self.seqs[user_id]
        self.mailboxes[user_id][message_id] = self.seqs[user_id]

    # ── 设备 ────────────────────────────────────────────────────────────────

    def connect(
        self,
        user_id: int,
        *,
        resume_from: int | None = None,
        pending: int | None = None,
        gateway: int = 0,
    ) -> int:
        """拨号并得到 welcome，返回连接；``resume_from`` 给出时续传成功。"""
        connection = len(self._users) + 1
        self._users[connection] = user_id
        self.add(
            Dialled(
                at=self.now,
                connection=connection,
                user_id=user_id,
                device="d",
                gateway=gateway,
                epoch=EPOCH if resume_from is not None else "",
                last_seq=resume_from,
            )
        )
        self.add(
            Opened(
                at=self.now,
                connection=connection,
                epoch=EPOCH,
                seq=self.seqs[user_id],
                resumed=resume_from is not None,
                pending=1000 if pending is None else pending,
            )
        )
        return connection

    def receive(
        self, connection: int, *message_ids: str, live: bool = True, attempt: int = 0
    ) -> int:
        user_id = self._users[connection]
        pushes = tuple(
            self.push(message_id, self.seq_of[user_id, message_id], attempt)
            for message_id in message_ids
        )
        return self.receive_raw(connection, *pushes, live=live)

    def push(self, message_id: str, seq: int, attempt: int = 0) -> Push:
        return Push(
            seq, message_id, self._titles[message_id], attempt, self._priorities[message_id], 7
        )

    def receive_raw(self, connection: int, *pushes: Push, live: bool = True) -> int:
        return self.add(Received(at=self.now, connection=connection, live=live, pushes=pushes))

    def ack(self, connection: int, *message_ids: str) -> None:
        """确认，服务器记录并移出信箱。"""
        self.add(Acked(at=self.now, connection=connection, message_ids=message_ids))
        for message_id in message_ids:
            self.record(self._users[connection], message_id)

    def ack_upto(self, connection: int, seq: int, *covered: str) -> None:
        self.add(Acked(at=self.now, connection=connection, upto=seq))
        for message_id in covered:
            self.record(self._users[connection], message_id)

    def record(self, user_id: int, message_id: str) -> None:
        self.statuses[user_id, message_id] = ("delivered", self.now)
        self.mailboxes[user_id].pop(message_id, None)

    def cry(self) -> str:
        """一条广播，接受了。"""
        self._cried += 1
        message_id = f"broadcast-{self._cried}"
        self.add(Cried(at=self.now, message_id=message_id))
        return message_id

    def hear(self, connection: int, *message_ids: str) -> None:
        self.add(Heard(at=self.now, connection=connection, message_ids=message_ids))

    def settle(self, user_id: int, *message_ids: str) -> None:
        self.add(Settled(at=self.now, user_id=user_id, message_ids=message_ids))

    def gap(self, connection: int, from_seq: int, to_seq: int) -> None:
        self.add(
            Gapped(
                at=self.now,
                connection=connection,
                from_seq=from_seq,
                to_seq=to_seq,
                reason="evicted",
            )
        )

    def resync(self, connection: int, epoch: str, seq: int) -> None:
        self.add(
            Resynced(
                at=self.now, connection=connection, reason="epoch_changed", epoch=epoch, seq=seq
            )
        )

    def close(self, connection: int) -> None:
        self.add(Closed(at=self.now, connection=connection, code=None, ours=True))

    # ── 终局 ────────────────────────────────────────────────────────────────

    def end(self, reports: tuple[Report, ...] | None = None) -> list[AnyEvent]:
        final = FinalState(
            messages=tuple(self.rows),
            recipients=tuple(
                RecipientRow(message_id, user_id, *state)
                for (user_id, message_id), state in self.statuses.items()
            ),
            mailboxes=tuple(
                Mailbox(user_id, EPOCH, tuple(entries.items()))
                for user_id, entries in self.mailboxes.items()
            ),
            queued=tuple(self.queued),
            dead=tuple(self.dead),
            reports=self.reports() if reports is None else reports,
        )
        return [*self.events, Ended(at=self.now, drained=True, final=final)]

    def reports(self) -> tuple[Report, ...]:
        return tuple(self._report(row.message_id) for row in self.rows)

    def _report(self, message_id: str) -> Report:
        states = tuple(
            (user_id, *state)
            for (user_id, each), state in self.statuses.items()
            if each == message_id
        )
        statuses = [status for _, status, _ in states]
        return Report(
            message_id=message_id,
            total=len(states),
            pending=statuses.count("pending"),
            delivered=statuses.count("delivered"),
            failed=statuses.count("failed"),
            expired=statuses.count("expired"),
            states=states,
        )

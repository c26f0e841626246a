"""各站彼此的承诺（叶子模块）。

``websocket`` 与各站互不导入：它们在这里相遇，由 ``assembly/`` 用构造函数注入连接。
每个协议的说明就是规格：至多一次还是至少一次、原子与否、能否取消、重复调用会怎样。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .mailbox_model import MailboxEntry, MailboxView, ResumePoint
from .model import (
    Ack,
    AckOutcome,
    BroadcastEntry,
    BroadcastView,
    ConnectionInfo,
    FailureCause,
    PresenceStatus,
    Principal,
)
from .protocol.envelope import BroadcastId, FrameKey
from .protocol.sent import Overdue

#: 收到频道上一条消息时的回调：(频道, 原文)。同步、不得抛出、不得阻塞。
ChannelHandler = Callable[[bytes, bytes], None]
#: 一个自有频道的去处：(原文) → 是否到此为止；False 则照常推给客户端。同步、不得抛出、不得阻塞。
ChannelRoute = Callable[[bytes], bool]
#: 一条正要推出去的实时帧：(原文, (seq, message_id), 现在的毫秒)。同步、不得抛出。
PushObserver = Callable[[bytes, FrameKey | None, int], None]


#: 一条登记的结果：(message_id, 推到了第几次；None = 不必再等)。
RetrySettled = Callable[[str, int | None], None]
#: 此刻，他为什么没有确认推到这条连接上的。同步、不得抛出。
WhyUnanswered = Callable[[], FailureCause]


class Arrival(Enum):
    """``Broadcasts.arrived`` 的另一种回答。"""

    MISSED = "missed"  # 前面漏了：先别推，重读日志之后会连同漏掉的一起补上


class TokenVerifier(Protocol):
    """验证访问令牌。由 ``AuthService`` 实现。"""

    async def verify_access_token(self, token: str) -> Principal:
        """返回身份；不查 SQL（连接路径上不许有 SQL）。

        :raises InvalidTokenError: 畸形、签名、算法、受众、签发者不对
        :raises TokenExpiredError: 过期
        :raises TokenNotYetValidError: 几分钟之内才有效
        :raises TokenRevokedError: 已吊销
        """


class Credentials(TokenVerifier, Protocol):
    """令牌与票据，连同吊销。由 ``auth.access_tokens.RevocableCredentials`` 实现。"""

    def verify_at_once(self, token: str) -> Principal | None:
        """不必等谁就验得了的；None：要等，用 ``verify_access_token``。错误同它。"""

    async def redeem_ticket(self, ticket: str) -> Principal:
        """``?ticket=`` 换成当初要它的人；每张至多成功一次，并发也一样。

        :raises InvalidTokenError: 没有这一张，或已用过、已过期（分不出）
        :raises TokenRevokedError: 要它时用的令牌已吊销
        :raises UnavailableError: Redis 不可用
        """


class Channels(Protocol):
    """频道订阅（精简的 hiredis 连接）。由 ``redis.subscriber.Subscriber`` 实现。"""

    async def subscribe(self, user_id: int) -> None:
        """返回时 Redis 已确认订阅 ``user:{uid}:messages``：此后发布的都会到达回调。

        重复订阅无害。断线期间调用会等到重新连上。
        """

    def subscribing(self, user_id: int) -> asyncio.Future[None] | None:
        """同 ``subscribe``，不等：何时确认（大家共用，不许取消）；早已确认的是 None。"""

    def unsubscribe(self, user_id: int) -> None:
        """立即返回；此后仍可能收到几条在途的消息。未订阅时无害。"""


class Mailbox(Protocol):
    """未确认消息的信箱。由 ``OfflineMessageQueue`` 实现。"""

    async def open(self, user_id: int, resume: ResumePoint | None = None) -> MailboxView:
        """一次读取 epoch、最新 seq 与全部待推条目；只读，不取走任何东西。

        调用者必须先订阅频道再调用它，两边的重叠按 seq 去重（先订阅，后读取）。
        """

    async def load(self, entries: Sequence[MailboxEntry]) -> list[bytes]:
        """按次序取出各条的 ``new_message`` 帧；正文已消失（过期）的略去。"""


class Broadcasts(Protocol):
    """耐久的广播：一份共用的日志，每个用户一个游标。由 ``BroadcastFeed`` 实现。

    游标只随确认前进，所以没确认的，他的下一条连接再推（DLV-4）；同一条连接上不推两次由
    会话负责（``protocol/sent.py``）。
    """

    @property
    def newest(self) -> int:
        """日志到哪里；没有过则 0。"""

    def arrived(self, payload: bytes) -> BroadcastId | Arrival | None:
        """广播频道上的一帧：它的 ``broadcast_id``；``None`` 表示不在日志里，推一次就算。

        同步、不抛出。
        """

    def after(self, broadcast_id: int) -> BroadcastView:
        """日志里 ``broadcast_id`` 之后的，不论确认与否；给已经打开的连接。"""

    async def load(self, entries: Sequence[BroadcastEntry]) -> list[bytes]:
        """按次序取出各条的帧；正文已消失的略去。

        :raises RedisUnavailableError: 稍后再试
        """


class BodySource(Protocol):
    """正文的来处：Redis 里的正文丢了，从记录（SQL）重新做出来。"""

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        """返回还认识的那些消息的 *尾*（``envelope.encode_tail``）；不认识的不出现。

        :raises DatabaseUnavailableError: 此刻问不到；调用者不得因此当作“不认识”
        """


class AckSink(Protocol):
    """确认的去处。由 ``DeliveryConfirmationService`` 实现。"""

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        """登记已核实的确认；立即返回，几毫秒后成批写入：先 SQL 记录，后移出信箱。

        幂等。写入失败会保留并重试；进程此时死掉只造成同 id 的重复，不会丢失。
        """

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        """核实并登记“不在本连接未确认表里”的 id。

        在该用户信箱里的：登记为确认。已确认过的：算 accepted。其余：unknown，什么也不改
        （别人的消息永远确认不了，SEC-1）。
        """


class Opened(NamedTuple):
    """一条新连接该补的。"""

    mailbox: MailboxView
    #: 该用户还没确认的广播。第一次来的用户从此刻的日志末尾算起，没有积压。
    broadcasts: BroadcastView


class Newcomer(NamedTuple):
    """一条刚认证过的连接；``device_id`` 是它的座位记着的。"""

    user_id: int
    connection_id: str
    device_id: str
    resume: ResumePoint | None


class Quiet(NamedTuple):
    """座位有了，没有什么在等他。"""

    #: 座位的值，交给 ``Seats.took``。
    seat: bytes
    epoch: str
    seq: int
    resumed: bool
    #: 他没有没确认的广播，直到日志的这里。
    newest: int


class Unfinished(NamedTuple):
    """还要等谁：座位满了，有什么在等他，或没有问成（``answer`` 为 None）。"""

    answer: list[Any] | None


class Arrivals(Protocol):
    """一条新连接要的一切，一次往返。由 ``assembly.edge`` 实现。

    调用者必须先订阅频道再调用它。
    """

    def begin(self, who: Newcomer, newest: int, done: Callable[[Quiet | Unfinished], None]) -> None:
        """占一个座位，读信箱与广播；``done`` 在回答到了之后调用（绝不当场），不得抛出。

        ``newest``：见 ``Broadcasts.newest``。他走了也照样问完：随后 ``Seats.release`` 即可。

        :raises RedisUnavailableError: 没有问
        """

    async def finish(self, who: Newcomer, unfinished: Unfinished) -> Opened | None:
        """``begin`` 没有做完的：占一个座位（见 ``Seats.claim``），读信箱（见 ``Mailbox.open``）与
        广播；满了则 None。可以取消：随后 ``Seats.release`` 即可。

        :raises RedisUnavailableError: 不知道占到没有；以 ``Unfinished(None)`` 重来无害
        """


class Seats(Protocol):
    """一个用户能有几台设备，所有节点合计。由 ``DeviceSeats`` 实现。"""

    async def claim(self, user_id: int, connection_id: str, device_id: str) -> bool:
        """占一个座位；满了而规矩是拒绝则 False。原子，同一条连接重复占无害。

        被顶掉的旧连接会被它的节点以 4505 关闭。可以取消：随后 ``release`` 即可。

        :raises RedisUnavailableError: 不知道占到没有；重来无害
        """

    def took(self, user_id: int, connection_id: str, seat: bytes | None) -> bool:
        """占座的结果，从 ``Arrivals`` 问来的；None 是满了，那时返回 False。"""

    def release(self, user_id: int, connection_id: str) -> None:
        """让出；立即返回，稍后成批写入。没占过也无害。"""


class RetrySink(Protocol):
    """等不到确认的推送的去处。由 ``RetryService`` 实现。"""

    def claim(
        self, user_id: int, overdue: Sequence[Overdue], settle: RetrySettled, why: WhyUnanswered
    ) -> None:
        """登记；立即返回，稍后成批认领：一个用户的一次重试，不论几台设备、几个节点只有一次。

        认领到的经延迟队列以原来的 seq 再推；用完次数的记为 failed，那时问 ``why``。每条的结果交给
        ``settle``（同步、不得抛出；连接可能已关闭）。Redis 不在时留着重试；进程死掉则由信箱补发
        代替。
        """


class PresenceSink(Protocol):
    """在线状态的去处，各方法只记账，几百毫秒成批写入。由 ``PresenceLedger`` 实现。"""

    def connection_opened(self, user_id: int, info: ConnectionInfo) -> None: ...

    def connection_closed(
        self, user_id: int, connection_id: str, left: FailureCause | None = None
    ) -> None:
        """``left``：它这样没有的，说明了他为什么收不到（``codes.cause_of_leaving``）。"""

    def heartbeat(self, user_id: int, connection_id: str, now: int) -> None: ...

    def status_changed(
        self,
        user_id: int,
        connection_id: str,
        status: PresenceStatus,
        device_info: str | None,
    ) -> None: ...


class FrameReceiver(Protocol):
    """收帧的一方。由 ``UserConnection`` 实现。"""

    def send_all(self, frames: Iterable[bytes]) -> None:
        """同步、不抛出、不等待；已关闭的无事发生。"""


class Watcher(FrameReceiver, Protocol):
    """关注别人的一条连接。由 ``UserConnection`` 实现。"""

    user_id: int
    ip_address: str


class PresenceWatches(Protocol):
    """谁在关注谁的在线状态。由 ``PresenceWatch`` 实现。"""

    async def watch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        """返回时各人此刻的 ``presence`` 帧已交给 ``watcher``，此后的变化会自己来。

        返回它共关注多少人。重复关注无害（状态再发一次）。第一次 await 之前已登记，所以
        中途 ``forget`` 有效；等待可以取消，登记仍在。

        :raises WatchLimitError: 这条连接、这个用户关注得太多
        :raises UnavailableError: 节点、这个地址已满，或 Redis 不可用；没有关注
        """

    def unwatch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        """返回还关注多少人；没关注的被忽略。"""

    def forget(self, watcher: Watcher) -> None:
        """它走了：不再关注任何人。幂等。"""


class ReadSink(Protocol):
    """“已读”的去处。由 ``MessageService`` 实现。"""

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> int:
        """把这些消息标为已读，返回该用户的未读数；不是他的 id 被忽略。幂等。

        实现者负责把 ``read_sync`` 帧发布到该用户的频道，好让其它设备同步。
        """


class UserDirectory(Protocol):
    """谁是存在的用户。默认由 ``UserRepository`` 实现；内嵌的应用可以带来自己的。

    应用的名册说的是对外的 id（整数、一段字）；我们自己的只有整数。
    """

    async def existing_ids(self, user_ids: Sequence[Any]) -> set[Any]:
        """``user_ids``（至多 10,000 个，已去重）里存在且未停用的那些。"""


@runtime_checkable
class UserNames(Protocol):
    """各人怎样称呼，给人看的。应用的名册有它就问它，没有就只有 id。"""

    async def names(self, user_ids: Sequence[Any]) -> Mapping[Any, str]:
        """``user_ids`` 里认得的各人的名字；不认得的不出现。id 同 ``UserDirectory``。"""


@runtime_checkable
class PeopleInSight(Protocol):
    """谁看得见谁，应用的名册说了算。有它，发给的人才有名字，才可以按名字写给人。

    id 同 ``UserDirectory``；``viewer`` 是在看的那个人。
    """

    async def names_seen_by(self, viewer: Any, user_ids: Sequence[Any]) -> Mapping[Any, str]:
        """``user_ids``（至多 200 个）里 ``viewer`` 看得见的各人的名字。"""

    async def find_people(self, viewer: Any, text: str, limit: int) -> Mapping[Any, str]:
        """名字像 ``text`` 的人里 ``viewer`` 看得见的，至多 ``limit`` 个；怎样算像由名册定。"""


class UserChannel(Protocol):
    """在线快路：把一帧文本发布到一个用户的频道（至多一次，不落信箱）。"""

    async def publish_frame(self, user_id: int, frame: bytes) -> int:
        """返回当时有多少个节点在听；0 表示没有任何设备在线。"""

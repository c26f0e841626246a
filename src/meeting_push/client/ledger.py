"""一台设备的账：应用过什么，还欠哪些确认，存在哪个文件里。

这台设备应用过什么：seq 的连续下限，与最近的消息 id。纯计算。

服务器先推完连接时的积压（*flush*，seq ≤ ``welcome.seq``），再推之后的（live）。
积压按优先级在前，所以 seq 不按次序来；积压推完时仍没出现的 seq 不会再来
（别的设备已确认，或已过期），可以算已了结。live 的 seq 逐一相连。

等着送出、等着服务器认下的确认。纯数据，没有 I/O。

设备状态的 JSON 文件：整份重写，原子替换。
"""

from __future__ import annotations

import uuid
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

import msgspec

from ..logs import logger
from ..mailbox_model import ResumePoint
from ..person_id import PersonId
from ..private_files import written_beside
from ..protocol.frames import MAX_ACK_IDS

#: 下限之上最多记多少段；超出的丢掉最高的，代价只是重连时多收几条重复的。
MAX_RANGES: Final = 1_024


class SettledSeqs:
    """已了结的 seq：1…``floor`` 全部，以及其上若干互不相邻的段。"""

    def __init__(self, floor: int = 0, max_ranges: int = MAX_RANGES) -> None:
        self.floor = floor
        self._max_ranges = max_ranges
        self._lows: list[int] = []
        self._highs: list[int] = []

    def __contains__(self, seq: int) -> bool:
        if seq <= self.floor:
            return True
        index = bisect_left(self._highs, seq)
        return index < len(self._lows) and self._lows[index] <= seq

    def add(self, low: int, high: int) -> None:
        """了结 ``low``…``high``（含两端）；空段与重复都无害。"""
        low = max(low, self.floor + 1)
        if low > high:
            return
        if not self._lows and low == self.floor + 1:  # 平常：一条接一条
            self.floor = high
            return
        first = bisect_left(self._highs, low - 1)
        last = bisect_right(self._lows, high + 1)
        if first < last:
            low = min(low, self._lows[first])
            high = max(high, self._highs[last - 1])
        self._lows[first:last] = [low]
        self._highs[first:last] = [high]
        self._raise_floor()
        del self._lows[self._max_ranges :], self._highs[self._max_ranges :]

    def count_upto(self, seq: int) -> int:
        """``seq`` 及以下了结了几个。"""
        above = zip(self._lows, self._highs, strict=True)
        return min(self.floor, seq) + sum(max(0, min(high, seq) - low + 1) for low, high in above)

    def _raise_floor(self) -> None:
        if self._lows[0] == self.floor + 1:
            self.floor = self._highs.pop(0)
            self._lows.pop(0)


class RecentIds:
    """有界的 id 集合；最久没碰到的先忘掉。"""

    def __init__(self, capacity: int, ids: Iterable[str] = ()) -> None:
        self._capacity = capacity
        # 普通 dict 从头上逐个删要反复跨过空槽
        self._ids: OrderedDict[str, None] = OrderedDict()
        for message_id in ids:
            self.add(message_id)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, message_id: str) -> None:
        self._ids[message_id] = None
        self._ids.move_to_end(message_id)
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

    def oldest_first(self) -> list[str]:
        return list(self._ids)


class Applied:
    """一台设备的账：能向服务器声称到哪个位置，哪些消息不得再交给应用。"""

    def __init__(
        self,
        capacity: int,
        *,
        resume: ResumePoint | None = None,
        ids: Iterable[str] = (),
    ) -> None:
        self.epoch = resume.epoch if resume else None
        self.ids = RecentIds(capacity, ids)
        self._seqs = SettledSeqs(resume.last_seq if resume else 0)
        #: 第一批积压推完之前，没有任何位置可以声称。
        self._positioned = resume is not None
        #: 本连接收到而尚未应用的 seq。
        self._outstanding: set[int] = set()
        self._flushing = False
        self._flush_upto = 0
        self._flush_seen: set[int] = set()
        #: 积压有几条；None 表示不知道（续传时 ``pending`` 不含记录里补来的）。
        self._flush_size: int | None = None

    @property
    def resume_point(self) -> ResumePoint | None:
        """重连时声称的位置：其下的每一条都已应用或已宣告不会来。"""
        if self.epoch is None or not self._positioned:
            return None
        return ResumePoint(self.epoch, self._seqs.floor)

    def opened(self, epoch: str, seq: int, *, resumed: bool, pending: int) -> None:
        """收到 ``welcome``：一段新的积压开始。没有续传时旧位置作废。"""
        self.epoch = epoch
        self._outstanding.clear()
        self._flush_seen.clear()
        self._flushing, self._flush_upto = True, seq
        self._flush_size = None if resumed else pending
        if not resumed:
            self._seqs, self._positioned = SettledSeqs(), False
        self._end_flush_if_complete()

    def received(self, seq: int) -> None:
        """一条带 seq 的消息到了（重复的也算）。"""
        if self._flushing and seq > self._flush_upto:
            self._end_flush()
        if seq not in self._seqs:
            self._outstanding.add(seq)
        if self._flushing:
            self._flush_seen.add(seq)
            self._end_flush_if_complete()

    def applied(self, message_id: str, seq: int | None, epoch: str | None) -> None:
        """应用处理完一条；``epoch`` 是收到它时的，已换代的 seq 不再有意义。"""
        self.ids.add(message_id)
        if seq is not None and epoch == self.epoch:
            self._outstanding.discard(seq)
            self._seqs.add(seq, seq)

    def gap(self, from_seq: int, to_seq: int) -> None:
        """服务器宣告这一段不再有（``gap``）；已到手、尚未应用的除外。"""
        self._settle_absent(from_seq, to_seq)

    def resynced(self, epoch: str, seq: int) -> None:
        """服务器宣告位置作废（``resync``）：新的下限是 ``seq``。

        紧跟 ``welcome`` 而来的那一个说的是同一件事：下限等积压推完再动，
        否则中途断开会把没应用的说成已应用。
        """
        if self._flushing and epoch == self.epoch:
            return
        self.epoch, self._seqs, self._positioned = epoch, SettledSeqs(seq), True
        self._outstanding.clear()
        self._flushing = False

    def lacks(self, seq: int) -> bool:
        """到 ``seq`` 为止有没到手、也没说不来的。积压还在推时不知道，就说没有。"""
        if self._flushing or not self._positioned:
            return False
        held = sum(one <= seq for one in self._outstanding)
        return self._seqs.count_upto(seq) + held < seq

    def _end_flush_if_complete(self) -> None:
        if self._flush_size is not None and len(self._flush_seen) >= self._flush_size:
            self._end_flush()

    def _end_flush(self) -> None:
        self._flushing, self._positioned = False, True
        self._flush_seen.clear()
        self._settle_absent(1, self._flush_upto)

    def _settle_absent(self, low: int, high: int) -> None:
        for seq in sorted(s for s in self._outstanding if low <= s <= high):
            self._seqs.add(low, seq - 1)
            low = seq + 1
        self._seqs.add(low, high)


#: 服务器一直不回答时，最多记住多少批已送出的。
_MAX_BATCHES_IN_FLIGHT: Final = 256


class AckQueue:
    """确认要等到 ``ack_result`` 才算数：断线时在途的，下一条连接上重送。

    续传从下限之后开始，下限以下的不会再推来；若不重送，丢掉的确认永远补不上。
    """

    def __init__(self, unconfirmed: Iterable[str] = ()) -> None:
        self._waiting: dict[str, None] = dict.fromkeys(unconfirmed)
        self._in_flight: dict[int, list[str]] = {}
        self._next_request_id = 1

    def add(self, message_id: str) -> None:
        self._waiting[message_id] = None

    def take(self, limit: int = MAX_ACK_IDS) -> tuple[int, list[str]] | None:
        """取出一批去送：(request_id, 至多 ``limit`` 个 id)；没有则 None。"""
        if not self._waiting:
            return None
        ids = list(islice(self._waiting, limit))
        for message_id in ids:
            del self._waiting[message_id]
        request_id, self._next_request_id = self._next_request_id, self._next_request_id + 1
        self._in_flight[request_id] = ids
        if len(self._in_flight) > _MAX_BATCHES_IN_FLIGHT:
            del self._in_flight[next(iter(self._in_flight))]
        return request_id, ids

    def confirmed(self, request_id: str | int | None) -> None:
        """服务器回答了这一批（认下或永久拒绝）；不认识的 id 无害。"""
        if isinstance(request_id, int):
            self._in_flight.pop(request_id, None)

    def again(self, request_id: str | int | None) -> bool:
        """这一批没有办成，再送；不是我们的号则 False。"""
        if not isinstance(request_id, int) or request_id not in self._in_flight:
            return False
        self._waiting = dict.fromkeys([*self._in_flight.pop(request_id), *self._waiting])
        return True

    def reopen(self) -> None:
        """新连接：没得到回答的排回最前面。"""
        self._waiting = dict.fromkeys(self.unconfirmed())
        self._in_flight.clear()

    def unconfirmed(self) -> list[str]:
        """全部尚未被认下的 id，先送者在前。"""
        sent = [message_id for ids in self._in_flight.values() for message_id in ids]
        return [*sent, *self._waiting]


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """重启之后接着用的一切。``floor`` 为 None 表示还没有位置可以声称。

    不含令牌。``user_id`` 防止换了用户还用旧位置；下限之上的零散 seq 不存：
    续传会重推它们，按 id 去重。
    """

    device_id: str
    user_id: PersonId | None = None
    epoch: str | None = None
    floor: int | None = None
    applied_ids: list[str] = []
    unconfirmed: list[str] = []


class PositionStore(Protocol):
    """设备状态存在哪里：文件（``StateFile``）、内存（``MemoryStore``），或自备（库、Redis …）。

    一份只给一个客户端。``load`` 在造客户端时调用一次，``save`` 在线程里，一次一个，都可以阻塞。
    内容用 ``msgspec.json.encode(state)`` 写、``msgspec.json.decode(…, type=DeviceState)`` 读。
    """

    def load(self) -> DeviceState | None:
        """没有则 None：服务器把信箱重推一遍。"""

    def save(self, state: DeviceState) -> None:
        """:raises OSError: 存不了；只记日志，下次有变化再存"""


class MemoryStore:
    """活得与它自己一样久：几个先后的客户端可以接着用。"""

    def __init__(self) -> None:
        self._state: DeviceState | None = None

    def load(self) -> DeviceState | None:
        return self._state

    def save(self, state: DeviceState) -> None:
        self._state = state


class StateFile:
    """一份文件只给一个客户端用；两个进程同用一份会互相覆盖。"""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: 取消了的保存仍在它的线程里写；后一次要排在它之后。
        self._writing = Lock()

    def load(self) -> DeviceState | None:
        """没有文件或读不懂时为 None：代价只是服务器把信箱重推一遍。阻塞。

        :raises OSError: 文件在，却读不了（权限等）
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=DeviceState)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.bind(path=str(self._path)).warning("client_state_unreadable")
            return None

    def save(self, state: DeviceState) -> None:
        """写临时文件、落盘、改名：任何时刻断电都留下一份完整的。阻塞。

        :raises OSError: 写不了
        """
        encoded = msgspec.json.encode(state)
        with self._writing, written_beside(self._path, encoded) as written:
            written.replace(self._path)


def load_device_state(store: PositionStore | None, device_id: str | None) -> DeviceState:
    """存着的，没有就新开一份；指定了别的 ``device_id`` 就是另一台设备，旧账不算。"""
    state = store.load() if store else None
    if state is not None and device_id in (None, state.device_id):
        return state
    return DeviceState(device_id=device_id or uuid.uuid4().hex)

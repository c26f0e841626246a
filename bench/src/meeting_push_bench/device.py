"""负载侧的设备：picows 的同步监听者。热路径每帧约 0.2 µs，才不会先于服务器到顶。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport

_BATCH = b'{"type":"batch"'
_NEW_MESSAGE = b'{"type":"new_message"'
_WELCOME = b'{"type":"welcome"'


class Message(msgspec.Struct, frozen=True):
    """``title`` 是预定发送时刻（单调时钟，纳秒），由发送者写入；``seq`` 0 的是瞬时的。"""

    message_id: str
    title: str
    seq: int = 0


class Notes(Protocol):
    """记下一条到达的消息；时刻都是单调时钟的纳秒。"""

    def note(self, sent_at_ns: int, now_ns: int) -> None: ...


class _Batch(msgspec.Struct, frozen=True):
    messages: list[Message]


_message_decoder = msgspec.json.Decoder(Message)
_batch_decoder = msgspec.json.Decoder(_Batch)


class Device(WSListener):
    """一条连接；``welcomed`` 在第一帧 welcome 时完成，连接先断则以断开的原因失败。"""

    def __init__(self, welcomed: asyncio.Future[None]) -> None:
        self.welcomed = welcomed
        self.lost = False
        self.closing = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.TEXT:
            self._on_control(transport, frame)
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith((_NEW_MESSAGE, _BATCH)):
            self.on_messages(transport, payload)
        elif payload.startswith(_WELCOME) and not self.welcomed.done():
            self.welcomed.set_result(None)

    def on_messages(self, transport: WSTransport, payload: bytes) -> None:
        """一帧 ``new_message`` 或 ``batch``。"""
        raise NotImplementedError

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.closing:
            return
        self.lost = True
        if not self.welcomed.done():
            received = transport.close_handshake.recv if transport.close_handshake else None
            reason = f"closed with {received.code}" if received else "connection lost"
            self.welcomed.set_exception(ConnectionError(reason))

    def _on_control(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class CountingDevice(Device):
    """扇出用：只数，不解码，不确认（瞬时帧没有 seq，无可确认）。

    长度恰为 ``frame_bytes`` 的就是那一种帧；其余走慢路（welcome、心跳，或合并的 batch）。
    """

    def __init__(
        self, welcomed: asyncio.Future[None], received: memoryview, frame_bytes: int
    ) -> None:
        super().__init__(welcomed)
        self._received = received
        self._frame_bytes = frame_bytes

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.payload_size == self._frame_bytes:
            self._received[0] += 1
        else:
            super().on_ws_frame(transport, frame)

    def on_messages(self, transport: WSTransport, payload: bytes) -> None:
        self._received[0] += payload.count(b'"message_id":"')


class AckingDevice(Device):
    """记下延迟；耐久的还要确认。标题不是时刻的（别人发的）只确认。"""

    def __init__(self, welcomed: asyncio.Future[None], arrivals: Notes) -> None:
        super().__init__(welcomed)
        self._arrivals = arrivals

    def on_messages(self, transport: WSTransport, payload: bytes) -> None:
        now, messages = time.monotonic_ns(), messages_in(payload)
        for message in messages:
            if message.title.isdecimal():
                self._arrivals.note(int(message.title), now)
        acknowledge(transport, messages)


def messages_in(payload: bytes) -> list[Message]:
    """一帧 ``new_message`` 或 ``batch`` 里的。"""
    if payload.startswith(_BATCH):
        return _batch_decoder.decode(payload).messages
    return [_message_decoder.decode(payload)]


def acknowledge(transport: WSTransport, messages: Sequence[Message]) -> None:
    """一帧确认其中耐久的；没有就不发。"""
    ids = '","'.join(message.message_id for message in messages if message.seq)
    if ids:
        transport.send(WSMsgType.TEXT, f'{{"type":"ack","message_ids":["{ids}"]}}'.encode())

"""连着的几帧：对所有人只拼一次，每人一次系统调用。"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from websockets.frames import Frame, Opcode

from ..protocol.envelope import PushKey


@dataclass(frozen=True, slots=True)
class FrameRun:
    """``wire`` 是这几帧在线上的字节（服务器发的没有掩码）；``size`` 是各帧内容之和。"""

    frames: tuple[tuple[bytes, PushKey], ...]
    wire: bytes
    size: int

    @classmethod
    def of(cls, frames: Sequence[tuple[bytes, PushKey]]) -> FrameRun:
        wire = b"".join(Frame(Opcode.TEXT, frame).serialize(mask=False) for frame, _ in frames)
        return cls(tuple(frames), wire, sum(len(frame) for frame, _ in frames))

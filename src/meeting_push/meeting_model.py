"""会议的名词：各站之间传递的不可变值；时间与 id 同 ``model.py``。"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meeting:
    """一场会议；``seq`` 是最新一段转录的号，从 1 起连续无洞。"""

    meeting_id: str
    title: str
    organizer_id: int
    created_at: int
    ended_at: int | None
    seq: int


@dataclass(frozen=True, slots=True)
class Participant:
    """``name`` 可能为空：内嵌的应用没有给出名字，而他还没有连上过。"""

    user_id: int
    name: str


@dataclass(frozen=True, slots=True)
class MeetingView:
    """进得来的人看到的会议。"""

    meeting: Meeting
    participants: tuple[Participant, ...]


@dataclass(frozen=True, slots=True)
class MeetingPosition:
    """记录走到了哪里。"""

    seq: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Utterance:
    """一段还没有号的转录；``start_ms``、``end_ms`` 从录音开始算起。"""

    sender_id: int
    speaker: str
    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Segment:
    """一段已保存的转录；``timestamp`` 是保存的时刻。"""

    seq: int
    sender_id: int
    speaker: str
    text: str
    start_ms: int
    end_ms: int
    timestamp: int

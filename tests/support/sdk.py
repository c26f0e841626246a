"""SDK 的测试共用的：缩小了的等待，假的令牌。"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Final

from meeting_push.client import ClientOptions

#: 重试几乎不等；没有一处要真的等满。
QUICK: Final = replace(
    ClientOptions(),
    open_timeout_s=2,
    close_timeout_s=0.5,
    backoff_base_s=0.001,
    backoff_cap_s=0.002,
    ack_delay_s=0,
)


def unsigned_jwt(**claims: object) -> str:
    """客户端不验证签名，所以假签名就够了。"""
    parts = [{"alg": "none"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join([*encoded, "signature"])

"""三个对照共有的：命令行，令牌，频道的名字。"""

from __future__ import annotations

import argparse
import os

import jwt

AUDIENCE = "meeting-push"
USER_CHANNELS = "user:{*}:messages"  # 花括号是字面的
BROADCAST_CHANNEL = "broadcast:all"
WELCOME = '{"type":"welcome"}'
HEARTBEAT_ACK = '{"type":"heartbeat_ack"}'


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis-url", required=True)
    return parser.parse_args()


def user_of(token: str) -> int:
    """:raises jwt.PyJWTError: 不是我们签的，或过期了"""
    secret = os.environ["BENCH_JWT_SECRET"]
    claims = jwt.decode(token, secret, algorithms=["HS256"], audience=AUDIENCE)
    return int(claims["sub"])


def user_of_channel(channel: str) -> int:
    return int(channel[len("user:{") : -len("}:messages")])

"""坏的 JSON 帧：从合格的变来，类型、大小、嵌套、字符、重复的键、过大的数。"""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

Frame = dict[str, Any]

#: 合格的客户端帧；``{}`` 处填连接自己的东西没有意义：都不存在也合格。
VALID: Final[tuple[Frame, ...]] = (
    {"type": "heartbeat", "timestamp": 1_800_000_000_000},
    {"type": "heartbeat", "timestamp": 0, "connection_id": "x" * 24, "request_id": 1},
    {"type": "ack", "message_ids": ["01KAS30Z8Q0V9N4T7M2R5W6X1Y"], "request_id": "a"},
    {"type": "ack", "upto": 7},
    {"type": "status", "status": "away", "device_info": "phone"},
    {"type": "read", "message_ids": ["01KAS30Z8Q0V9N4T7M2R5W6X1Y"], "request_id": 2},
    {"type": "refresh_token", "token": "a.b.c", "request_id": 3},
    {"type": "watch", "user_ids": [1, 2], "request_id": 4},
    {"type": "unwatch", "user_ids": [1], "request_id": 5},
    {"type": "ops_watch", "every_s": 2, "request_id": 6},
    {"type": "ops_unwatch", "request_id": 7},
)

NASTY_TEXTS: Final = (
    "",
    "\x00",
    "\u202e\u0000\ufeff",
    "\U0001f600" * 50,
    "a\u0300" * 200,
    "../../etc/passwd",
    "%s%n{0}${jndi}",
    "'; DROP TABLE messages; --",
    "\r\nX: y",
    "{1}:messages",
    "\x7f\x80",
    "ﷺ" * 30,
    "x" * 70_000,
)
NASTY_NUMBERS: Final = (
    *(0, -1, 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**100),
    *(0.0, -0.0, 1.5, 1e308, 5e-324),
)
#: JSON 里没有、而别的解析器可能收下的写法，原样拼进去。
NASTY_LITERALS: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "+1", ".5", "1.", "-"),
    *("9" * 400, "1" + "0" * 5000, "1e-400", "'x'", "undefined", "tru", "nul", "//", "/**/1"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u00"', '"\\x41"', '"\t"', '"\\', "[" * 600, "{" * 600),
    *("[" * 40_000, '{"a":' * 10_000, "[[]," * 3000),
)
ABSURD_TIMES: Final[tuple[Any, ...]] = (
    0,
    1,
    -1,
    2**53,
    2**53 - 1,
    2**62,
    10**30,
    1.5,
    "now",
    None,
    True,
    [1],
    {},
)


def json_text(random: Random) -> bytes:
    """一帧文本；多半是坏的，也可能合格。"""
    maker = random.choice((_mutated, _mutated, _literal, _duplicate_keys, _nested, _cut, _huge))
    return maker(random)


def heartbeat(random: Random) -> bytes:
    """时间荒唐的心跳。"""
    return _encode({"type": "heartbeat", "timestamp": random.choice(ABSURD_TIMES)})


def unknown_ack(random: Random, ids: int) -> bytes:
    """确认从没有过的消息；格式合格。"""
    message_ids = [f"{random.getrandbits(128):026X}"[:26] for _ in range(ids)]
    return _encode({"type": "ack", "message_ids": message_ids})


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _mutated(random: Random) -> bytes:
    """改一两个字段：换成别的值、删掉、添上、改名。"""
    frame = dict(random.choice(VALID))
    for _ in range(random.randint(0, 3)):
        name = random.choice((*frame, "request_id", "type", random.choice(NASTY_TEXTS)))
        change = random.random()
        if change < 0.2:
            frame.pop(name, None)
        else:
            frame[name] = _value(random, random.randint(0, 3))
    return _encode(frame)


def _value(random: Random, depth: int) -> Any:
    """任意的 JSON 值，嵌套至多 ``depth`` 层。"""
    kind = random.randrange(8 if depth else 5)
    if kind == 0:
        return random.choice(NASTY_TEXTS)
    if kind == 1:
        return random.choice(NASTY_NUMBERS)
    if kind == 2:
        return random.choice((None, True, False))
    if kind == 3:
        return random.choice(("active", "heartbeat", "ack", "01KAS30Z8Q0V9N4T7M2R5W6X1Y"))
    if kind == 4:
        return random.choice(ABSURD_TIMES)
    if kind == 5:
        return {random.choice(NASTY_TEXTS[:8]): _value(random, depth - 1)}
    item = _value(random, depth - 1)
    # 层层都一千个就是十亿个：只有小东西才重复那么多次
    small = not isinstance(item, str | list | dict) or (len(item) < 30 and depth == 1)
    return [item] * random.choice((0, 1, 2, 100, 101, 1000, 1001) if small else (0, 1, 2))


def _literal(random: Random) -> bytes:
    """一个字段的值换成一段不是（或勉强是）JSON 的文本。"""
    frame = dict(random.choice(VALID))
    name = random.choice(tuple(frame))
    frame[name] = "@@"
    literal = random.choice(NASTY_LITERALS)
    return _encode(frame).replace(b'"@@"', literal.encode("utf-8", "surrogatepass"))


def _duplicate_keys(random: Random) -> bytes:
    """同一个键两次，值不同。"""
    first, second = _encode(random.choice(VALID)), _encode(random.choice(VALID))
    return first[:-1] + b"," + second[1:]


def _nested(random: Random) -> bytes:
    depth = random.choice((10, 500, 1000, 5000, 20_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = opening * depth + b"1" + closing * depth
    return b'{"type":"heartbeat","timestamp":1,"extra":' + inner + b"}"


def _cut(random: Random) -> bytes:
    """截断、插入、翻转字节。"""
    text = bytearray(_encode(random.choice(VALID)))
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(text))
        action = random.randrange(3)
        if action == 0:
            del text[place:]
            text += b" "
        elif action == 1:
            text[place] = random.randrange(256)
        else:
            text[place:place] = random.randbytes(random.randint(1, 8))
    return bytes(text)


def _huge(random: Random) -> bytes:
    """在各个上限的两边：一帧 64 KB，读到两倍为止。"""
    size = random.choice((65_535, 65_536, 65_537, 70_000, 131_071, 131_073, 200_000))
    head = b'{"type":"heartbeat","timestamp":1,"pad":"'
    return head + b"x" * (size - len(head) - 2) + b'"}'

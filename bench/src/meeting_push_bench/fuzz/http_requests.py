"""握手请求的字节：合格的，与从它变来的；以及根本不是 HTTP 的。"""

from __future__ import annotations

from random import Random
from typing import Final

Header = tuple[bytes, bytes]
KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="

_PATHS: Final = (
    *(b"/", b"/ws/user/", b"/ws/user/1", b"/ws/user/1/messages/", b"/ws/user//messages"),
    *(b"/ws/user/0/messages", b"/ws/user/01/messages", b"/ws/user/-1/messages"),
    *(b"/ws/user/1e3/messages", b"/ws/user/9223372036854775808/messages"),
    *(b"/ws/user/%31/messages", b"/ws/user/1%00/messages", b"/ws/user/\xff/messages"),
    *(b"/ws/user/1/messages%3Ftoken=x", b"//ws/user/1/messages", b"/ws/user/1/../1/messages"),
    *(b"http://h/ws/user/1/messages", b"*", b"", b"/ws/user/" + b"1" * 9000 + b"/messages"),
    *(b"/ws/user/\xd9\xa1/messages", b"/ws/meeting/1", b"/healthz", b"/api/v1/messages"),
    *(b"/ops", b"/docs", b"/static/vendor/", b"/api/v1/alerts/alertmanager", b"/api/v1/alerts/1"),
)
_QUERIES: Final = (
    *(b"", b"?", b"?token=", b"?token=x&token=y", b"?token=%", b"?token=%ff%00", b"?ticket=x"),
    *(b"?&&&&=&=", b"?" + b"a=b&" * 200, b"?token=" + b"x" * 9000, b"?epoch=%20&last_seq=-1"),
    *(b"?epoch=e&last_seq=99999999999999999999", b"?device_id=%00%0a&device_info=" + b"%f0" * 300),
    *(b"?device_info=\xff\xfe", b"?last_seq=1e5&epoch=\x00", b"?token=a.b.c#frag"),
)
_VALUES: Final = (
    *(b"", b" ", b"x" * 9000, b"\xff\xfe", b"\x00", b"a\r\n b", b"websocket, websocket", b"13, 8"),
    *(b"meeting-push.v1", b"bearer.", b"bearer.x, bearer.y", b"Bearer ", b"Bearer a b c", b","),
    *(b"null", b"http://evil.example", b"permessage-deflate; x", b"chunked", b"999999", b"-1"),
)
_NAMES: Final = (
    *(b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"),
    *(b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Authorization", b"Origin"),
    *(
        b"Content-Length",
        b"Transfer-Encoding",
        b"X-Request-ID",
        b"Expect",
        b"",
        b"X\x00Y",
        b"Bad Name",
        b"\xff",
    ),
)
_LINES: Final = (b"GET", b"get", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"G\x00T", b"")
_VERSIONS: Final = (
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/9.9",
    b"http/1.1",
    b"",
)
_NOT_HTTP: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # TLS ClientHello
    b"SSH-2.0-x\r\n",
    b"\x00" * 4096,
    b"\r\n" * 2000,
    b"*1\r\n$4\r\nPING\r\n",
    b"GET /ws/user/",
    b"GET /ws/user/1/messages HTTP/1.1\r\n" + b"a" * 100_000,
    b"GET /ws/user/1/messages HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
)


def upgrade(path: bytes, token: str | None, headers: list[Header] | None = None) -> bytes:
    """合格的握手；``token`` 放在 Authorization 头里。"""
    return _request(b"GET", path, b"HTTP/1.1", headers or _headers(token))


def mutated(random: Random, path: bytes, token: str | None) -> bytes:
    """从合格的握手变来：行、头、查询串各有一两处不对。"""
    method, version, headers = b"GET", b"HTTP/1.1", _headers(token)
    for _ in range(random.randint(1, 3)):
        change = random.randrange(6)
        if change == 0:
            path = random.choice(_PATHS)
        elif change == 1:
            path = path.partition(b"?")[0] + random.choice(_QUERIES)
        elif change == 2:
            method, version = random.choice(_LINES), random.choice(_VERSIONS)
        elif change == 3 and headers:
            del headers[random.randrange(len(headers))]
        elif change == 4 and headers:
            place = random.randrange(len(headers))
            headers[place] = (headers[place][0], random.choice(_VALUES))
        else:
            headers.append((random.choice(_NAMES), random.choice(_VALUES)))
    text = _request(method, path, version, headers)
    return text.replace(b"\r\n", b"\n") if random.random() < 0.05 else text


def garbage(random: Random) -> bytes:
    """不是 HTTP，或只有开头像。"""
    if random.random() < 0.5:
        return random.choice(_NOT_HTTP)
    prefix = random.choice(
        (b"", b"GET ", b"GET /ws/user/1/messages HTTP/1.1\r\n", b"GET /ws/user/1")
    )
    return prefix + random.randbytes(random.choice((1, 10, 100, 3000)))


def _headers(token: str | None) -> list[Header]:
    headers = [
        (b"Host", b"127.0.0.1"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", KEY),
        (b"Sec-WebSocket-Version", b"13"),
    ]
    if token is not None:
        headers.append((b"Authorization", b"Bearer " + token.encode()))
    return headers


def _request(method: bytes, path: bytes, version: bytes, headers: list[Header]) -> bytes:
    line = b"%b %b %b\r\n" % (method, path, version)
    return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"

"""握手：驱动从各自的库里取出同样的几样东西，此后两者无别；来源可否，里面的凭据是不是路径上这位用户的。

每条连接解析一次；里面有令牌，认证之后就该放手，绝不写进日志。
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..contracts import Credentials
from ..errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidTokenError,
    MeetingPushError,
    RateLimitedError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from ..http.cors import as_browsers_say, normal_origin
from ..http.upgrade_request import NamedHeaders
from ..limits.rate import TrustedProxies, rate_key
from ..logs import MANY, RepeatedWarning
from ..mailbox_model import ResumePoint
from ..model import Principal
from ..person_id import PersonId, PersonIds
from ..protocol.codes import CloseCode
from ..protocol.frames import BEARER_SUBPROTOCOL_PREFIX, SUBPROTOCOL
from ..settings import TOKEN_SOURCES, TokenSource
from .admission import HandshakeLimits, HastyUserError

PATH_PREFIX: Final = "/ws/user/"
STREAM_PREFIX: Final = "/sse/user/"
MAX_DEVICE_ID_CHARS: Final = 64
MAX_DEVICE_INFO_CHARS: Final = 256
_EPOCH: Final = re.compile(r"[!-~]{1,64}")
_SEQ: Final = re.compile(r"[0-9]{1,16}")
#: 设备声称有位置，可我们看不懂；这个 epoch 谁也不会发。
UNREADABLE_POSITION: Final = ResumePoint("?", 0)
_MAX_QUERY_FIELDS: Final = 32
_PATH: Final = re.compile(r"/(?:ws|sse)/user/([^/?]+)/messages")


def person_in_path(path: str, ids: PersonIds) -> PersonId | None:
    """``/ws/user/{user_id}/messages``、``/sse/…`` 里的用户；别的路径是 None（HTTP 404）。"""
    match = _PATH.fullmatch(path)
    return None if match is None else ids.in_path(match.group(1))


@dataclass(slots=True, repr=False)
class Handshake:
    """``headers`` 的名字为小写；``query`` 是未解码的查询串。

    ``person``：路径上的用户，对外的 id；路径上没有的是 0。
    """

    person: PersonId
    query: str
    headers: NamedHeaders
    ip_address: str

    def header_values(self, name: str) -> Sequence[str]:
        return self.headers.get(name, ())

    def header(self, name: str) -> str | None:
        values = self.headers.get(name)
        return values[0] if values else None

    def fields(self) -> list[tuple[str, str]]:
        """查询串的各项；坏的百分号编码变成替换字符，项数过多则当作没有。"""
        if not self.query:
            return []
        try:
            return parse_qsl(self.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            return []

    def subprotocols(self) -> list[str]:
        lines = self.headers.get("sec-websocket-protocol")
        return [token.strip() for token in ",".join(lines).split(",")] if lines else []

    @property
    def accepted_subprotocol(self) -> str | None:
        """只回显 ``meeting-push.v1``，且只在客户端提出时；带令牌的那个绝不回显。"""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols() else None


class Device(msgspec.Struct, frozen=True):
    """客户端自报的设备；都不可信，只截短、去掉控制字符。"""

    device_id: str
    device_info: str
    resume: ResumePoint | None

    @classmethod
    def of(cls, handshake: Handshake, connection_id: str) -> Device:
        """没报 ``device_id`` 的用 ``connection_id``；没报 ``device_info`` 的用 User-Agent。"""
        given: dict[str, str] = {}
        for name, value in handshake.fields():
            given.setdefault(name, value)
        info = given.get("device_info") or handshake.header("user-agent") or ""
        return cls(
            clean(given.get("device_id", ""), MAX_DEVICE_ID_CHARS) or connection_id,
            clean(info, MAX_DEVICE_INFO_CHARS),
            resume_point(given.get("epoch", ""), given.get("last_seq", "")),
        )


def clean(text: str, max_chars: int) -> str:
    """去掉控制字符、代理项与首尾空白，截短。"""
    if not text:
        return text
    text = text[: max_chars * 2]
    if not (text.isascii() and text.isprintable()):  # 常情不逐字看：一份 User-Agent 就是一百多个
        text = "".join([char for char in text if unicodedata.category(char)[0] != "C"])
    return text.strip()[:max_chars]


def resume_point(epoch: str, last_seq: str) -> ResumePoint | None:
    """都没给是没有位置；给了而看不懂的（C7）是作废的位置：它得到信箱，和一帧 ``resync``。"""
    if not epoch and not last_seq:
        return None
    if _EPOCH.fullmatch(epoch) is None or _SEQ.fullmatch(last_seq) is None:
        return UNREADABLE_POSITION
    return ResumePoint(epoch, int(last_seq))


# ── 凭据与来源 ───────────────────────────────────────────────────────────────

MAX_TOKEN_CHARS: Final = 8192
MAX_ORIGIN_CHARS: Final = 128  # 写进日志的
ANY_ORIGIN: Final = "*"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def extract_credential(
    handshake: Handshake, sources: Iterable[TokenSource] = TOKEN_SOURCES
) -> tuple[TokenSource, str]:
    """令牌或票据与它的来处；先找到者胜，次序固定，不在 ``sources`` 里的当作没给。

    同一处给出两个不同的有歧义，当作没有证明自己是谁。

    :raises InvalidTokenError: 没有、有歧义、过长或不是 ASCII
    """
    for source, look in _LOOK.items():
        if source in sources and (candidates := look(handshake)):
            return source, _only(candidates)
    raise InvalidTokenError("no token")


def _bearer_headers(handshake: Handshake) -> set[str]:
    found: set[str] = set()
    for value in handshake.header_values("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            found.add(token.strip())
    return found


def _bearer_subprotocols(handshake: Handshake) -> set[str]:
    prefix = BEARER_SUBPROTOCOL_PREFIX
    return {name[len(prefix) :] for name in handshake.subprotocols() if name.startswith(prefix)}


def _query_fields(field: str, handshake: Handshake) -> set[str]:
    return {value for name, value in handshake.fields() if name == field}


_LOOK: Final[Mapping[TokenSource, Callable[[Handshake], set[str]]]] = {
    "header": _bearer_headers,
    "subprotocol": _bearer_subprotocols,
    "ticket": partial(_query_fields, "ticket"),
    "query": partial(_query_fields, "token"),
}


def _only(candidates: set[str]) -> str:
    if len(candidates) > 1:
        raise InvalidTokenError("ambiguous token")
    token = candidates.pop()
    if not token or len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise InvalidTokenError("malformed token")
    return token


def close_code_for(error: MeetingPushError) -> CloseCode:
    """认证失败的关闭码；依赖暂时不可用（如取不到公钥）是可重连的 4007。"""
    match error:
        case TokenExpiredError() | TokenNotYetValidError():
            return CloseCode.TOKEN_EXPIRED
        case TokenRevokedError():
            return CloseCode.REVOKED
        case ForbiddenError():
            return CloseCode.FORBIDDEN
        case RateLimitedError():
            return CloseCode.RATE_LIMITED
        case _ if error.temporary:
            return CloseCode.NODE_UNHEALTHY
        case _:
            return CloseCode.INVALID_TOKEN


def who_failed(error: MeetingPushError, ip_address: str) -> Hashable:
    """这次失败算在谁头上：认得出的是他，否则是他的地址。"""
    return error.user_id if isinstance(error, HastyUserError) else rate_key(ip_address)


def is_about_the_token(error: MeetingPushError) -> bool:
    """在线换令牌失败：令牌的错才关连接；我们的错（取不到公钥 …）不关，旧令牌还有效。"""
    return isinstance(error, AuthenticationError | ForbiddenError)


class Authenticator:
    """``allowed_origins`` 为空时只许同源；含 ``*`` 则不限。

    ``proxies``、``ids`` 供驱动造 ``Handshake``：客户端的地址，路径上的用户。
    """

    def __init__(
        self,
        credentials: Credentials,
        allowed_origins: Iterable[str] = (),
        *,
        sources: Iterable[TokenSource] = TOKEN_SOURCES,
        limits: HandshakeLimits,
        proxies: TrustedProxies,
        ids: PersonIds = PersonIds(),  # noqa: B008 — 不可变
    ) -> None:
        self.ids = ids
        self._credentials = credentials
        self._origins = frozenset(map(as_browsers_say, allowed_origins))
        self._sources = frozenset(sources)
        self._limits = limits
        self.proxies = proxies
        self._failed = RepeatedWarning("ws_auth_failed", lines=MANY)
        self._foreign_origin = RepeatedWarning("ws_origin_forbidden", lines=MANY)

    def origin_allowed(self, handshake: Handshake) -> bool:
        """升级之前的检查（防跨站劫持，LESSONS 10）；不通过则 HTTP 403。

        没有 Origin 的不是浏览器，放行；``null``（沙箱、file:）只有明列才许。
        """
        origins = handshake.header_values("origin")
        if not origins:
            return True
        host = handshake.header("host")
        forbidden = [origin for origin in origins if not self._allowed(origin, host)]
        if forbidden:
            self._foreign_origin.say(
                user_id=handshake.person,
                ip_address=handshake.ip_address,
                origin=clean(forbidden[0], MAX_ORIGIN_CHARS),
            )
        return not forbidden

    def _allowed(self, origin: str, host: str | None) -> bool:
        if ANY_ORIGIN in self._origins or normal_origin(origin) in self._origins:
            return True
        return host is not None and _same_host(origin, host)

    def suspects(self, handshake: Handshake) -> bool:
        """见 ``HandshakeLimits.suspects``。"""
        return self._limits.suspects(handshake.ip_address)

    def doubt(self, handshake: Handshake) -> Hashable | None:
        """升级之前：他该先排队，算在谁头上；None = 不必。不记账，不写日志。

        地址一再失败，而这一枚当场验不出是真的（坏的、票据、头一次见到的公钥令牌）：算地址的；
        有效的令牌不受地址连累，除非这个人自己连得太快。
        """
        suspect = self._limits.suspects(handshake.ip_address)
        if not suspect and not self._limits.hurries(handshake.person):
            return None
        principal = self._glance(handshake)
        if principal is None:
            return rate_key(handshake.ip_address) if suspect else None
        return principal.user_id if self._limits.spent(principal.user_id) else None

    def _glance(self, handshake: Handshake) -> Principal | None:
        """当场就验得出的；坏的、要等谁的是 None。"""
        try:
            source, text = extract_credential(handshake, self._sources)
            return None if source == "ticket" else self._credentials.verify_at_once(text)
        except MeetingPushError:
            return None

    def abandoned(self, handshake: Handshake) -> None:
        """还没验完就走了：记在地址头上，同一次失败。"""
        self._limits.failed(handshake.ip_address, InvalidTokenError("left before it was verified"))

    async def authenticate(self, handshake: Handshake) -> Principal:
        """路径上的用户必须就是令牌的用户，管理员也不例外。

        :raises MeetingPushError: 见 ``close_code_for``；失败已记入安全日志，不含令牌
        """
        with self._watched(handshake.person, handshake.ip_address):
            principal = await self._verify(handshake)
            _require_user(principal.person, handshake.person)
            return principal

    def authenticate_at_once(self, handshake: Handshake) -> Principal | None:
        """同 ``authenticate``，不等；None：要等谁（票据、公钥、应用的验证），用它。"""
        address = handshake.ip_address
        try:
            source, text = extract_credential(handshake, self._sources)
            if source == "ticket":
                return None
            principal = self._credentials.verify_at_once(text)
            if principal is not None:
                self._limits.check_user(principal, address)
                _require_user(principal.person, handshake.person)
            return principal
        except RateLimitedError:
            raise
        except MeetingPushError as error:
            self._note_failure(handshake.person, address, error)
            raise

    async def identify(self, handshake: Handshake) -> Principal:
        """令牌说他是谁；路径上没有用户的连接（会议）用它。错误与日志同 ``authenticate``。"""
        with self._watched(handshake.person, handshake.ip_address):
            return await self._verify(handshake)

    async def refresh(self, token: str, user_id: int, ip_address: str) -> Principal:
        """同一条连接在线换令牌；要求与失败同 ``authenticate``。"""
        with self._watched(user_id, ip_address):
            principal = await self._credentials.verify_access_token(_only({token}))
            _require_user(principal.user_id, user_id)
            return principal

    async def _verify(self, handshake: Handshake) -> Principal:
        source, text = extract_credential(handshake, self._sources)
        if source == "ticket":
            principal = await self._credentials.redeem_ticket(text)
        else:
            principal = await self._credentials.verify_access_token(text)
        self._limits.check_user(principal, handshake.ip_address)
        return principal

    @contextlib.contextmanager
    def _watched(self, user_id: PersonId, ip_address: str) -> Iterator[None]:
        """失败：记入安全日志，算在地址头上，照样抛出。"""
        try:
            yield
        except RateLimitedError:  # 限速自己记，有节制
            raise
        except MeetingPushError as error:
            self._note_failure(user_id, ip_address, error)
            raise

    def _note_failure(self, user_id: PersonId, ip_address: str, error: MeetingPushError) -> None:
        """:raises RateLimitedError: 这个地址失败得太多，或来得太快"""
        self._limits.check_stranger(ip_address)
        self._limits.failed(ip_address, error)
        self._failed.say(user_id=user_id, ip_address=ip_address, reason=error.code)


def _require_user(told: PersonId, wanted: PersonId) -> None:
    if told != wanted:
        raise ForbiddenError("the token belongs to another user")


def _same_host(origin: str, host: str) -> bool:
    """Origin 的主机与端口就是 Host；默认端口可省。TLS 常在前面的代理上，所以不比协议。"""
    try:
        parts = urlsplit(normal_origin(origin))
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not parts.netloc:
        return False
    return parts.netloc.removesuffix(default) == host.lower().removesuffix(default)

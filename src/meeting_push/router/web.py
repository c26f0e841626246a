"""网页：收件箱、运维页、接口文档，与它们的静态文件；包里有的就是全部，不用连外网。

页面与脚本都不含任何用户数据，所以不要令牌；严格的 CSP 只许同源的脚本、样式与连接，也不许放进别人
的框里（A17）。别人写的（``web/vendor/``）以 gzip 存着，浏览器收 gzip 就原样交给它。

``/openapi.json`` 谁都能要，有一百 KB：只编码一次，否则每问一次占住事件循环几十毫秒（A7）。
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response, status
from fastapi.responses import RedirectResponse

from ..errors import NotFoundError
from ..limits.rate import RefusalPace, TrustedProxies, rate_key
from .contract_route import ContractRoute

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PACKED: Final = ".gz"
#: Host 头是别人给的，要进 CSP：只认主机名、IPv4、带方括号的 IPv6 与端口。
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # 每次以 ETag 核对：升级后不会新旧文件混用
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
#: 一个地址每秒这么多、攒着这么多；再多的等一会儿才答：页面谁都能要，一份文件有一两 MB。
_FILES_PER_S: Final = 50
_FILES_BURST: Final = 1_000
_FILES_DELAY_S: Final = 1.0
_FILES_WAITING: Final = 1_000
_CLOSED: Final = (
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "object-src 'none'",
)
#: 脚本里任何往 innerHTML 写字符串的企图都会抛错。
_NO_MARKUP: Final = ("require-trusted-types-for 'script'", "trusted-types 'none'")
#: Swagger UI 自己往 innerHTML 写（先经 DOMPurify），样式里有 data: 的图。
_DOCS_POLICY: Final = "; ".join(("default-src 'self'", "img-src 'self' data:", *_CLOSED))


@dataclass(frozen=True)
class _Asset:
    stored: bytes
    media_type: str
    packed: bool = False

    @cached_property
    def etag(self) -> str:
        return hashlib.sha256(self.stored).hexdigest()[:32]

    @cached_property
    def plain(self) -> bytes:
        """解开的；只有不收 gzip 的才要，解一次。"""
        return gzip.decompress(self.stored) if self.packed else self.stored


def web_router(proxies: TrustedProxies | None = None) -> APIRouter:
    """``/inbox``、``/ops``、``/static/…``。"""
    pace = [Depends(_paced(proxies or TrustedProxies()))]
    router = APIRouter(include_in_schema=False, dependencies=pace, route_class=ContractRoute)

    @router.api_route("/inbox", methods=["GET", "HEAD"])
    async def inbox(request: Request) -> Response:
        return _answer(request, _assets()["inbox.html"])

    @router.api_route("/ops", methods=["GET", "HEAD"])
    async def ops(request: Request) -> Response:
        return _answer(request, _assets()["ops.html"])

    @router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
    async def static(request: Request, name: str) -> Response:
        return _static(request, name)

    return router


def add_home(app: FastAPI) -> None:
    """``/``：只在我们自己的服务器里，别人的应用有它自己的。"""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("inbox", status.HTTP_307_TEMPORARY_REDIRECT)


def add_docs(app: FastAPI, proxies: TrustedProxies | None = None) -> None:
    """``/docs`` 与它要的；``app`` 自己的 ``openapi_url``、``docs_url`` 须是 None。"""

    pace = [Depends(_paced(proxies or TrustedProxies()))]

    @cache
    def document() -> bytes:  # 第一次有人要时才有：那时路由都加好了
        return msgspec.json.encode(app.openapi())

    @app.api_route(
        "/openapi.json", methods=["GET", "HEAD"], include_in_schema=False, dependencies=pace
    )
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False, dependencies=pace)
    async def docs(request: Request) -> Response:
        return _answer(request, _assets()["docs.html"], _DOCS_POLICY)

    @app.api_route(
        "/static/{name:path}", methods=["GET", "HEAD"], include_in_schema=False, dependencies=pace
    )
    async def static(request: Request, name: str) -> Response:
        """不开 REST 的角色也有 ``/docs``。"""
        return _static(request, name)


def _paced(proxies: TrustedProxies) -> Callable[[Request], Awaitable[None]]:
    """依赖：同一个地址要得太快，就等一会儿再答，不拒绝：同一个出口后面可能有很多人。"""
    pace = RefusalPace(_FILES_PER_S, _FILES_BURST, _FILES_DELAY_S, _FILES_WAITING)

    async def wait(request: Request) -> None:
        peer = request.client.host if request.client is not None else "unknown"
        address = proxies.client_address(peer, request.headers.getlist("x-forwarded-for"))
        if delay_s := pace.delay_s(rate_key(address), time.monotonic()):
            await asyncio.sleep(delay_s)

    return wait


def _static(request: Request, name: str) -> Response:
    asset = _assets().get(name)
    if asset is None or name.endswith(".html"):  # 页面在自己的地址上
        raise NotFoundError("no such file")
    return _answer(request, asset)


@cache
def _assets() -> dict[str, _Asset]:
    """一次读入内存（几百 KB）：请求里的名字只用来查表，从不碰文件系统。"""
    return dict(_files(files("meeting_push") / "web", ""))


def _files(directory: Traversable, prefix: str) -> list[tuple[str, _Asset]]:
    found: list[tuple[str, _Asset]] = []
    for file in directory.iterdir():
        name = file.name.removesuffix(_PACKED)
        media_type = _MEDIA_TYPES.get(name[name.rfind(".") :])
        if file.is_dir():
            found += _files(file, f"{prefix}{name}/")
        elif media_type is not None:
            asset = _Asset(file.read_bytes(), media_type, packed=file.name != name)
            found.append((prefix + name, asset))
    return found


def _answer(request: Request, asset: _Asset, policy: str | None = None) -> Response:
    policy = policy or _content_security_policy(request.headers.get("host", ""))
    packed = asset.packed and "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{asset.etag}{"-gzip" if packed else ""}"'
    headers = {**_HEADERS, "ETag": etag, "Content-Security-Policy": policy}
    if asset.packed:
        headers["Vary"] = "Accept-Encoding"
    known = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    content = asset.stored if packed else asset.plain
    return Response(content, media_type=asset.media_type, headers=headers)


def _content_security_policy(host: str) -> str:
    """``'self'`` 在旧浏览器里不含 ws/wss，所以把同一主机的两种写明。"""
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    connect = f"connect-src 'self'{sockets}"
    # 标签页图标上的未读数是画出来的
    images = "img-src 'self' data:"
    return "; ".join(("default-src 'self'", images, connect, *_CLOSED, *_NO_MARKUP))

"""收件箱页面：包里的静态文件，一份不多。

页面与脚本都不含任何用户数据，所以不要令牌；严格的 CSP 只许同源的脚本、样式与连接。

``/openapi.json`` 与它的页面 ``/docs``。

页面的脚本来自 CDN，别的一概不许，也不许放进别人的框里（A17）。文档谁都能要，有一百 KB：只编码
一次，否则每问一次占住事件循环几十毫秒（A7）。
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response, status
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import RedirectResponse

from ..errors import NotFoundError

PAGE: Final = "inbox.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Host 头是别人给的，要进 CSP：只认主机名、IPv4、带方括号的 IPv6 与端口。
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_GUARDED: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # 每次以 ETag 核对：升级后不会新旧文件混用
    **_GUARDED,
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


def web_router() -> APIRouter:
    """``/``、``/inbox``、``/static/{name}``；文件在此刻一次读入内存（几十 KB）。"""
    router = APIRouter(include_in_schema=False)
    assets = _load_assets()
    page = assets.pop(PAGE)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def home() -> RedirectResponse:
        """相对地址：挂在前缀下也对。"""
        return RedirectResponse("inbox", status.HTTP_307_TEMPORARY_REDIRECT)

    @router.api_route("/inbox", methods=["GET", "HEAD"])
    async def inbox(request: Request) -> Response:
        return _answer(request, page)

    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    async def static(request: Request, name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise NotFoundError("no such file")
        return _answer(request, asset)

    return router


def _load_assets() -> dict[str, _Asset]:
    """目录里有的就是全部：请求里的名字只用来查表，从不碰文件系统。"""
    assets = {}
    for file in (files("meeting_push") / "web").iterdir():
        media_type = _MEDIA_TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            assets[file.name] = _Asset(content, media_type, etag)
    return assets


def _answer(request: Request, asset: _Asset) -> Response:
    policy = _content_security_policy(request.headers.get("host", ""))
    headers = {**_HEADERS, "ETag": asset.etag, "Content-Security-Policy": policy}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _content_security_policy(host: str) -> str:
    """``'self'`` 在旧浏览器里不含 ws/wss，所以把同一主机的两种写明。

    ``require-trusted-types-for``：脚本里任何往 innerHTML 写字符串的企图都会抛错。
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return "; ".join(
        (
            "default-src 'self'",
            f"connect-src 'self'{sockets}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "object-src 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


_CDN: Final = "https://cdn.jsdelivr.net"
_ICON: Final = "https://fastapi.tiangolo.com"
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def add_docs(app: FastAPI) -> None:
    """``app`` 自己的 ``openapi_url``、``docs_url`` 须是 None。"""

    @cache
    def document() -> bytes:  # 第一次有人要时才有：那时路由都加好了
        return msgspec.json.encode(app.openapi())

    @app.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    page = bytes(get_swagger_ui_html(openapi_url="openapi.json", title=app.title).body)
    headers = {"Content-Security-Policy": _policy(page), **_GUARDED}

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        return Response(page, media_type="text/html", headers=headers)


def _policy(page: bytes) -> str:
    """页面自己的那段脚本以摘要放行。"""
    digests = [
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in _INLINE.findall(page)
    ]
    inline = " ".join(f"'sha256-{digest}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_CDN} {inline}",
            f"style-src {_CDN} 'unsafe-inline'",
            f"img-src 'self' data: {_ICON}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )

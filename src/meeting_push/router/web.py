"""收件箱页面：包里的静态文件，一份不多。

页面与脚本都不含任何用户数据，所以不要令牌；严格的 CSP 只许同源的脚本、样式与连接。
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response, status
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
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # 每次以 ETag 核对：升级后不会新旧文件混用
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
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

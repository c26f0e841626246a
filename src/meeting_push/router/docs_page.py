"""``/openapi.json`` 与它的页面 ``/docs``。

页面的脚本来自 CDN，别的一概不许，也不许放进别人的框里（A17）。文档谁都能要，有一百 KB：只编码
一次，否则每问一次占住事件循环几十毫秒（A7）。
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import Final

import msgspec
from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html

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
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

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

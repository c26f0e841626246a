"""普通的 Starlette WebSocket。"""

from __future__ import annotations

from typing import ClassVar

from .behaviour import EdgeBehaviour
from .world import serve_asgi


class TestAsgi(EdgeBehaviour):
    serve = staticmethod(serve_asgi)
    closes_on_invalid_utf8: ClassVar[bool] = True

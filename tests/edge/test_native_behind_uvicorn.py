"""picows 与 uvicorn 共用一个端口。"""

from __future__ import annotations

from .behaviour import EdgeBehaviour
from .world import serve_native_behind_uvicorn


class TestNativeBehindUvicorn(EdgeBehaviour):
    serve = staticmethod(serve_native_behind_uvicorn)

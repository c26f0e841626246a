"""把线握住：用户级 WebSocket 连接的边缘。

一条连接 = 纯的 ``protocol.Session`` + 有界的 ``protocol.Outbox`` + 一个薄驱动
（``native``：picows；``asgi``：Starlette）。管理者见 ``manager.ConnectionManager``。
"""

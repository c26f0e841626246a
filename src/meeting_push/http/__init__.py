"""站在 REST 与 WebSocket 前面的：有界的 HTTP、门厅、拒绝、升级的检查、裸端口上的探针。"""

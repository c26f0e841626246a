"""``websockets`` 的同步客户端：argv 是地址、令牌。说什么见 README.md。"""

import json
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol


def main(url: str, token: str) -> None:
    offered = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{token}")]
    with connect(url, subprotocols=offered, compression=None, proxy=None) as socket:
        threading.Thread(target=close_at_end, args=(socket,), daemon=True).start()
        try:
            while True:
                hear(socket, str(socket.recv()))
        except ConnectionClosed as end:
            code = end.rcvd.code if end.rcvd else 1006
    sys.stdout.write(json.dumps({"type": "closed", "code": code}) + "\n")


def hear(socket: ClientConnection, text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    frame = json.loads(text)
    messages = frame["messages"] if frame["type"] == "batch" else [frame]
    ids = [one["message_id"] for one in messages if one.get("type") == "new_message"]
    if ids:
        socket.send(json.dumps({"type": "ack", "message_ids": ids, "request_id": 1}))


def close_at_end(socket: ClientConnection) -> None:
    sys.stdin.read()
    socket.close(1000)


main(*sys.argv[1:])

"""``websocket-client``（同步，一个线程收）：argv 是地址、令牌。说什么见 README.md。"""

import json
import sys
import threading

import websocket


def main(url: str, token: str) -> None:
    socket = websocket.create_connection(
        url, subprotocols=["meeting-push.v1", f"bearer.{token}"], http_no_proxy=["*"]
    )
    threading.Thread(target=close_at_end, args=(socket,), daemon=True).start()
    code = 1000
    while True:
        opcode, data = socket.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            code = int.from_bytes(data[:2], "big")
            break
        if opcode == websocket.ABNF.OPCODE_TEXT:
            hear(socket, data.decode())
    sys.stdout.write(json.dumps({"type": "closed", "code": code}) + "\n")


def hear(socket: websocket.WebSocket, text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    frame = json.loads(text)
    messages = frame["messages"] if frame["type"] == "batch" else [frame]
    ids = [one["message_id"] for one in messages if one.get("type") == "new_message"]
    if ids:
        socket.send(json.dumps({"type": "ack", "message_ids": ids, "request_id": 1}))


def close_at_end(socket: websocket.WebSocket) -> None:
    sys.stdin.read()
    socket.send_close(1000)


main(*sys.argv[1:])

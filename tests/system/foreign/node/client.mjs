// Node 的 `ws`：argv 是它的模块、地址、令牌。说什么见 README.md。

import { pathToFileURL } from "node:url";

const [module, url, token] = process.argv.slice(2);
const { WebSocket } = await import(pathToFileURL(module).href);
const socket = new WebSocket(url, ["meeting-push.v1", `bearer.${token}`]);

socket.on("message", (data) => {
  const text = String(data);
  process.stdout.write(`${text}\n`);
  const frame = JSON.parse(text);
  const messages = frame.type === "batch" ? frame.messages : [frame];
  const ids = messages.filter(({ type }) => type === "new_message").map((one) => one.message_id);
  if (ids.length) socket.send(JSON.stringify({ type: "ack", message_ids: ids, request_id: 1 }));
});
socket.on("close", (code) => {
  process.stdout.write(`${JSON.stringify({ type: "closed", code })}\n`);
  process.exit(0);
});
process.stdin.on("end", () => socket.close(1000)).resume();

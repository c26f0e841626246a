// 一致性测试的接头，JavaScript 的 SDK 这一边（README.md）；argv 是 SDK 与 `ws` 的模块。

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [sdk, ws] = process.argv.slice(2).map((path) => pathToFileURL(path).href);
const { PushClient } = await import(sdk);
const { WebSocket } = await import(ws);

const FRAMES = ["withdrawn", "read_sync", "receipt", "presence", "notice", "gap", "resync"];
const say = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

let client = null;
let tokens = [];
let waiting = [];

const fileStore = (path) => ({
  load() {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return null;
    }
  },
  save: (_key, value) => writeFileSync(path, value),
});

function askToken({ fresh }) {
  say("token", { fresh });
  return new Promise((resolve) => (tokens.length ? resolve(tokens.shift()) : waiting.push(resolve)));
}

function start(order) {
  [tokens, waiting] = [[], []];
  const failing = new Set(order.fail_once ?? []);
  const tuning = Object.fromEntries(
    Object.entries(order.tuning ?? {}).map(([name, ms]) => [
      name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase()),
      ms,
    ]),
  );
  client = new PushClient({
    url: order.url,
    userId: order.user_id,
    token: order.token ?? askToken,
    transport: order.transport ?? "auto",
    ack: order.ack ?? "handled",
    store: order.store ? fileStore(order.store) : "memory",
    WebSocket,
    ...tuning,
  });
  client.on("message", ({ message_id, seq, title }) => {
    say("message", { message_id, seq, title });
    if (failing.delete(message_id)) throw new Error("as told");
  });
  client.on("state", ({ name, transport, code, reason, final, retryAt }) =>
    say("state", { name, transport, code, reason, final, retry_at: retryAt }),
  );
  client.on("error", () => {});
  for (const name of FRAMES) client.on(name, ({ type, ...fields }) => say(type, fields));
  client.start();
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.do === "start") start(order);
  else if (order.do === "token") {
    const resolve = waiting.shift();
    if (resolve) resolve(order.token);
    else tokens.push(order.token);
  } else if (order.do === "ack") client.ack(order.message_id);
  else if (order.do === "stop") {
    await client?.stop();
    client = null;
    say("stopped");
  }
}

// Node 里的一方：argv 是 SDK 与 `ws` 的模块；标准输入一行一个 JSON 文本，是要算的表达式。

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [sdk, ws] = process.argv.slice(2).map((path) => pathToFileURL(path).href);
globalThis.sdk = await import(sdk);
globalThis.extra = { WebSocket: (await import(ws)).WebSocket };

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await (0, eval)(JSON.parse(line)) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

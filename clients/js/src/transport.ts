/** 一条连接的两种样子：WebSocket，与由 `fetch` 读的 SSE。都只管字节与帧。 */

import { PushError, refusal } from "./errors.js";
import type { ClientFrame, ServerFrame } from "./frames.js";
import type { WebSocketClass } from "./options.js";

export type TransportKind = "websocket" | "sse";

/** 怎样结束的；`code` 是 WebSocket 的关闭码，SSE 的按它的意思。 */
export interface End {
  code: number | null;
  reason: string;
  retryAfterMs?: number | null;
}

export interface Listener {
  /** 有字节来了，不论是什么。 */
  heard(): void;
  frame(frame: ServerFrame): void;
  /** 不是帧的：忽略，只说一声。 */
  garbage(): void;
  closed(end: End): void;
}

export interface Transport {
  readonly kind: TransportKind;
  /** 没送出去则 false。 */
  send(frame: ClientFrame): boolean;
  close(): void;
}

const SUBPROTOCOL = "meeting-push.v1";
const OPEN = 1;
/** SSE 的拒绝是 HTTP 的回答；码与 WebSocket 的关闭码一个意思。 */
const CODES: Record<string, number> = {
  token_expired: 4004,
  token_not_yet_valid: 4004,
  forbidden: 4501,
  revoked: 4502,
  kicked: 4503,
  protocol_violation: 4504,
  replaced: 4505,
};
const INVALID_TOKEN = 4500;
const UNAUTHENTICATED = 401;

/** 令牌在子协议里，从不进 URL。 */
export function openWebSocket(
  Socket: WebSocketClass,
  address: URL,
  token: string,
  listener: Listener,
): Transport {
  const url = new URL(address);
  url.protocol = url.protocol.replace("http", "ws");
  let socket;
  try {
    socket = new Socket(url.href, [SUBPROTOCOL, `bearer.${token}`]);
  } catch {
    // CSP 不许、令牌里有子协议容不下的字：同连不上一样，SSE 也许行
    queueMicrotask(() => listener.closed({ code: null, reason: "not_opened" }));
    return { kind: "websocket", send: () => false, close: () => {} };
  }
  socket.onmessage = ({ data }) => {
    listener.heard();
    read(data, listener);
  };
  socket.onerror = () => {}; // `close` 随后就来；`ws` 没有人听会抛
  socket.onclose = ({ code, reason }) => listener.closed({ code, reason });
  return {
    kind: "websocket",
    send(frame) {
      if (socket.readyState !== OPEN) return false;
      socket.send(JSON.stringify(frame));
      return true;
    },
    close() {
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
  };
}

export function openStream(
  get: typeof fetch,
  address: URL,
  token: string,
  listener: Listener,
): Transport {
  const stop = new AbortController();
  const headers = { Accept: "text/event-stream", Authorization: `Bearer ${token}` };
  const options = { headers, cache: "no-store", credentials: "omit", signal: stop.signal } as const;
  const run = async () => {
    const response = await get(address, options);
    if (!response.ok) return refused(await refusal(response));
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream") || !response.body) {
      return { code: null, reason: "not_a_stream" };
    }
    return follow(response.body, listener);
  };
  run()
    .catch(() => ({ code: null, reason: "network" }))
    .then((end) => stop.signal.aborted || listener.closed(end));
  return { kind: "sse", send: () => false, close: () => stop.abort() };
}

function refused({ code, status, retryAfterMs }: PushError): End {
  const known = CODES[code] ?? (status === UNAUTHENTICATED ? INVALID_TOKEN : null);
  return { code: known, reason: code, retryAfterMs };
}

async function follow(body: ReadableStream<Uint8Array>, listener: Listener): Promise<End> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const events = new EventReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { code: null, reason: "stream_ended" };
    listener.heard();
    for (const { event, data } of events.push(decoder.decode(value, { stream: true }))) {
      if (event !== "close") {
        read(data, listener);
        continue;
      }
      const { code = null, name = "" } = JSON.parse(data);
      return { code, reason: name };
    }
  }
}

/** `text/event-stream` 的一段段文字 → 事件；`id`、`retry` 用不着。 */
export class EventReader {
  #rest = "";
  #event = "";
  #data: string[] = [];

  push(text: string): { event: string; data: string }[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?=[^])/);
    this.#rest = lines.pop()!;
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): { event: string; data: string }[] {
    if (line !== "") {
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
      if (name === "event") this.#event = value!;
      else if (name === "data") this.#data.push(value!);
      return [];
    }
    const found = { event: this.#event, data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    [this.#event, this.#data] = ["", []];
    return empty ? [] : [found];
  }
}

function read(text: unknown, listener: Listener): void {
  let frame: ServerFrame | null = null;
  try {
    frame = JSON.parse(text as string);
  } catch {
    // 二进制的、坏的 JSON
  }
  if (typeof frame?.type === "string") listener.frame(frame);
  else listener.garbage();
}

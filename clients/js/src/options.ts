import type { Clock } from "./clock.js";
import type { UserId } from "./frames.js";
import type { StoreOption } from "./store.js";
import type { TokenSource } from "./tokens.js";

/** 浏览器的、Node 22 起自带的，或 `ws` 包的类。 */
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

export interface WebSocketLike {
  readonly readyState: number;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface PushClientOptions {
  /** 服务器的根，http、https 均可，可以带前缀。 */
  url: string | URL;
  token: TokenSource;
  /** 不给则读令牌的 `userIdClaim`，不验证签名。 */
  userId?: UserId;
  userIdClaim?: string;
  /** 这台设备稳定的 id；不给则用存着的，再没有就造一个。 */
  deviceId?: string;
  /** 给人看的设备名。 */
  deviceInfo?: string;
  /** 位置存在哪里：`memory`（缺省）、`local`、`session`，或自备。 */
  store?: StoreOption;
  /** `handled`（缺省）：处理函数正常返回就确认；`manual`：只有 `message.ack()`、`client.ack()`。 */
  ack?: "handled" | "manual";
  /** `auto`（缺省）：WebSocket 连着两次不成就用 SSE，五分钟后再试 WebSocket。 */
  transport?: "auto" | "websocket" | "sse";
  /** 一个浏览器里的各个标签页共用一条连接；缺 Web Locks 或 BroadcastChannel 时各连各的。 */
  shared?: boolean;
  /** 看不见的页面由 Worker 计时；CSP 不许 blob: 时给 `meeting-push.worker.js` 的地址，或 false。 */
  worker?: boolean | string;
  WebSocket?: WebSocketClass;
  fetch?: typeof fetch;
  /** 全抖动的退避：random(0, min(cap, base · 2ⁿ))。 */
  backoffBaseMs?: number;
  backoffCapMs?: number;
  /** 活过这么久，退避从头算。 */
  stableAfterMs?: number;
  openTimeoutMs?: number;
  /** 心跳发出后这么久没有任何帧，就当服务器已死。 */
  deadAfterMs?: number;
  /** 醒来、网络换了之后的试探等这么久。 */
  probeAfterMs?: number;
  /** SSE 这么久没有一个字节（服务器每 15 秒一行注释）。 */
  silentAfterMs?: number;
  websocketRetryMs?: number;
  ackDelayMs?: number;
  requestTimeoutMs?: number;
  /** 记住最近多少个消息 id 用来去重。 */
  rememberIds?: number;
  /** 排着队等处理的至多这么多；再来的不收，服务器会重推。 */
  queueLimit?: number;
  clock?: Clock;
  random?: () => number;
}

export type Settings = Required<Omit<PushClientOptions, "userId" | "deviceId" | "WebSocket">> &
  Pick<PushClientOptions, "userId" | "deviceId"> & {
    url: URL;
    WebSocket: WebSocketClass | undefined;
  };

const DEFAULTS = {
  userIdClaim: "sub",
  deviceInfo: "",
  store: "memory",
  ack: "handled",
  transport: "auto",
  shared: false,
  worker: true,
  backoffBaseMs: 1_000,
  backoffCapMs: 30_000,
  stableAfterMs: 10_000,
  openTimeoutMs: 10_000,
  deadAfterMs: 10_000,
  probeAfterMs: 3_000,
  silentAfterMs: 45_000,
  websocketRetryMs: 300_000,
  ackDelayMs: 50,
  requestTimeoutMs: 15_000,
  rememberIds: 5_000,
  queueLimit: 10_000,
  random: Math.random,
} as const;

/** 没给的（包括 undefined）用缺省的。 */
export function settle(options: PushClientOptions, clock: (worker: boolean | string) => Clock): Settings {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const base = globalThis.document?.baseURI;
  const url = new URL(options.url, base);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return {
    WebSocket: globalThis.WebSocket as WebSocketClass | undefined,
    fetch: (input: RequestInfo | URL, init?: RequestInit) => globalThis.fetch(input, init),
    ...DEFAULTS,
    ...given,
    clock: options.clock ?? clock(options.worker ?? true),
    url,
  } as Settings;
}

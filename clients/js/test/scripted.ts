/** 照剧本演的服务器（真的套接字，说 contract 的话，也能故意不守规矩）与拨得动的钟。 */

import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { WebSocket, WebSocketServer } from "ws";

import { PushClient } from "../src/client.js";
import type { Clock } from "../src/clock.js";
import type { PushClientOptions, WebSocketClass } from "../src/options.js";

type Frame = Record<string, any>;
const LIMIT_MS = 10_000;

export const id = (number: number) => String(number).padStart(26, "0");

export function message(seq: number | null, fields: Frame = {}): Frame {
  const of = { type: "new_message", seq, attempt: 0, message_id: id(seq ?? 0), title: `title ${seq}` };
  return { ...of, message_type: "message", priority: 0, content: "", sender: { id: 2, name: "bob" }, ...fields };
}

/** 等得到的队列：测试等事件，不等时间。 */
export class Mailbox<T> {
  #items: T[] = [];
  #waiting: ((item: T) => void)[] = [];

  put = (item: T): void => {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.#items.push(item);
  };

  get size(): number {
    return this.#items.length;
  }

  next(what = "something"): Promise<T> {
    if (this.#items.length) return Promise.resolve(this.#items.shift()!);
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), LIMIT_MS);
      this.#waiting.push((item) => (clearTimeout(late), resolve(item)));
    });
  }
}

/** 一条连接，WebSocket 或 SSE。 */
export class Peer {
  readonly frames = new Mailbox<Frame>();
  readonly gone = new Mailbox<number>();
  constructor(
    readonly kind: "websocket" | "sse",
    readonly query: URLSearchParams,
    readonly token: string,
    private write: (text: string | Buffer) => void,
    readonly close: (code: number, name: string) => void,
    readonly drop: () => void,
  ) {}

  send(...frames: Frame[]): void {
    for (const frame of frames) this.write(JSON.stringify(frame));
  }

  raw(text: string | Buffer): void {
    this.write(text);
  }

  welcome(fields: Frame = {}): void {
    this.send({
      type: "welcome",
      connection_id: "c",
      user_id: 1,
      device_id: this.query.get("device_id"),
      epoch: "e",
      seq: 0,
      heartbeat_interval_s: 30,
      heartbeat_timeout_s: 60,
      max_frame_bytes: 65_536,
      token_expires_at: 0,
      resumed: this.query.has("last_seq"),
      pending: 0,
      server_time: 0,
      ...fields,
    });
  }

  /** 下一帧这种类型的；别的略过。 */
  async receive(type: string): Promise<Frame> {
    for (;;) {
      const frame = await this.frames.next(type);
      if (frame.type === type) return frame;
    }
  }

  /** 下一批确认，并认下。 */
  async acked(): Promise<string[]> {
    const { message_ids: ids, request_id } = await this.receive("ack");
    this.send({ type: "ack_result", accepted: ids.length, unknown: [], request_id });
    return ids;
  }
}

type Rest = (request: IncomingMessage, body: any) => { status: number; body?: unknown; headers?: Record<string, string> };

export class Script {
  readonly peers = new Mailbox<Peer>();
  readonly acks = new Mailbox<string[]>();
  /** 升级与 SSE 先这样拒绝几次。 */
  readonly refuse: { websocket: number[]; sse: number[]; headers: Record<string, string>; body: unknown } = {
    websocket: [],
    sse: [],
    headers: {},
    body: {},
  };
  rest: Rest = () => ({ status: 404 });
  #port = 0;
  #http: Server = createServer((request, response) => void this.#answer(request, response));
  #sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "meeting-push.v1" });

  async start(): Promise<this> {
    this.#http.on("upgrade", (request, socket, head) => {
      const status = this.refuse.websocket.shift();
      if (status) return void socket.end(`HTTP/1.1 ${status} no\r\ncontent-length: 0\r\n\r\n`);
      this.#sockets.handleUpgrade(request, socket, head, (opened) => this.#opened(request, opened));
    });
    await this.comeBack();
    this.#port = (this.#http.address() as AddressInfo).port;
    return this;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** 端口没有人听了。 */
  leave(): Promise<void> {
    return new Promise((resolve) => this.#http.close(() => resolve()));
  }

  /** 在原来的端口上；在听着的无事。 */
  async comeBack(): Promise<void> {
    if (this.#http.listening) return;
    await new Promise<void>((resolve) => this.#http.listen(this.#port, "127.0.0.1", resolve));
  }

  stop(): void {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#http.close();
    this.#http.closeAllConnections();
  }

  #opened(request: IncomingMessage, socket: WebSocket): void {
    const { searchParams } = new URL(request.url!, this.url);
    const token = request.headers["sec-websocket-protocol"]!.split("bearer.")[1]!;
    const peer = new Peer(
      "websocket",
      searchParams,
      token,
      (text) => socket.send(text),
      (code, name) => socket.close(code, name),
      () => socket.terminate(),
    );
    socket.on("message", (data) => peer.frames.put(JSON.parse(String(data))));
    socket.on("close", (code) => peer.gone.put(code));
    this.peers.put(peer);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url!, this.url);
    let text = "";
    for await (const part of request) text += part;
    if (!pathname.startsWith("/sse/")) {
      const body = text ? JSON.parse(text) : null;
      if (pathname === "/api/v1/acks") this.acks.put(body.message_ids);
      const found = pathname === "/api/v1/acks" ? { status: 200, body: {} } : this.rest(request, body);
      response.writeHead(found.status, { "content-type": "application/json", ...found.headers });
      return void response.end(JSON.stringify(found.body ?? {}));
    }
    const status = this.refuse.sse.shift();
    if (status) {
      response.writeHead(status, this.refuse.headers);
      return void response.end(JSON.stringify(this.refuse.body));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const event = (name: string, data: string) => response.write(`${name}data: ${data}\n\n`);
    const peer = new Peer(
      "sse",
      searchParams,
      request.headers.authorization!.replace("Bearer ", ""),
      (text) => event("id: e:1\n", String(text)),
      (code, name) => (event("event: close\n", JSON.stringify({ code, name })), response.end()),
      () => response.destroy(),
    );
    response.on("close", () => peer.gone.put(0));
    response.write(": hello\n\n");
    this.peers.put(peer);
  }
}

/** 拨到哪里是哪里；`delays` 是还没到的。 */
export class HandClock implements Clock {
  #now = 1_000_000;
  #next = 1;
  #pending = new Map<number, { act: () => void; due: number }>();

  /** 机器睡了：墙上的钟走了，定时器没有响。 */
  asleepMs = 0;

  now = () => this.#now + this.asleepMs;

  set(act: () => void, ms: number): number {
    this.#pending.set(this.#next, { act, due: this.#now + ms });
    return this.#next++;
  }

  clear(timer: number): void {
    this.#pending.delete(timer);
  }

  stop(): void {
    this.#pending.clear();
  }

  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#pending].filter(([, one]) => one.due <= end).sort((a, b) => a[1].due - b[1].due)[0];
      if (!due) break;
      this.#pending.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].due);
      due[1].act();
    }
    this.#now = end;
  }
}

export interface World {
  script: Script;
  clock: HandClock;
  client: PushClient;
  /** 交给应用的消息的 id，按次序。 */
  got: Mailbox<string>;
  states: string[];
  errors: Mailbox<any>;
}

const quick = { random: () => 0.5, ackDelayMs: 0 };

/** 一个剧本、一个拨得动的钟、一个还没开始的客户端；离场时收拾。 */
export async function world(context: TestContext, options: Partial<PushClientOptions> = {}): Promise<World> {
  const script = await new Script().start();
  context.after(() => script.stop());
  return { script, ...clientOf(context, script, options) };
}

export function clientOf(context: TestContext, script: Script, options: Partial<PushClientOptions> = {}) {
  const clock = (options.clock as HandClock) ?? new HandClock();
  const given = { url: script.url, token: "t", userId: 1, clock, WebSocket: WebSocket as unknown as WebSocketClass };
  const client = new PushClient({ ...given, ...quick, ...options });
  context.after(() => client.stop());
  const states: string[] = [];
  const errors = new Mailbox<any>();
  const got = new Mailbox<string>();
  client.on("state", ({ name }) => states.push(name));
  client.on("error", errors.put);
  return { clock, client, states, errors, got };
}

/** 收下每一条。 */
export function take({ client, got }: Pick<World, "client" | "got">): void {
  client.on("message", ({ message_id }) => got.put(message_id));
}

/** 等一个状态。 */
export function reached(client: PushClient, name: string, limitMs = LIMIT_MS): Promise<void> {
  return new Promise((resolve, reject) => {
    if (client.state.name === name && client.state.reason !== "not_started") return resolve();
    const late = setTimeout(() => reject(new Error(`not ${name}: ${JSON.stringify(client.state)}`)), limitMs);
    const off = client.on("state", (state) => {
      if (state.name !== name) return;
      clearTimeout(late);
      off();
      resolve();
    });
  });
}

/** 连上，拿到欢迎。 */
export async function welcomed({ script, client }: Pick<World, "script" | "client">, fields: Frame = {}): Promise<Peer> {
  const peer = await script.peers.next("a connection");
  peer.welcome(fields);
  await reached(client, "connected");
  return peer;
}

/** 断了、等着：到了就再连。 */
export async function again(world: World, fields: Frame = {}): Promise<Peer> {
  await reached(world.client, "disconnected");
  assert.ok(!world.client.state.final, JSON.stringify(world.client.state));
  world.client.retryNow();
  return welcomed(world, fields);
}

/** 让排着的微任务与 I/O 走一轮。 */
export const turn = () => new Promise((resolve) => setImmediate(resolve));

/** 一直连着：连上、断了再连、换一种走法，直到停下或服务器不许再连。 */

import { PushError } from "./errors.js";
import type { ClientFrame, Notice, ServerFrame, UserId, Welcome } from "./frames.js";
import type { Position } from "./ledger.js";
import type { Settings } from "./options.js";
import type { Tokens } from "./tokens.js";
import { type End, openStream, openWebSocket, type Transport, type TransportKind } from "./transport.js";

/** `final`：不会再连；否则 `retryAt` 是下一次（毫秒）。`code` 是关闭码，`reason` 是它的名或我们的缘由。 */
export interface ConnectionState {
  name: "disconnected" | "connecting" | "connected";
  transport: TransportKind | null;
  code: number | null;
  reason: string;
  retryAt: number | null;
  final: boolean;
}

export const IDLE: ConnectionState = {
  name: "disconnected",
  transport: null,
  code: null,
  reason: "not_started",
  retryAt: null,
  final: true,
};

/** 连接要问的与要说的。 */
export interface LineHost {
  claim(): Position | null;
  deviceId(): string;
  userId(token: string): UserId;
  state(state: ConnectionState): void;
  frame(frame: ServerFrame): void;
  failed(error: unknown): void;
}

const TOKEN_EXPIRED = 4004;
/** 这两个说的是“太多了”：不从最短的退避开始。 */
const CROWDED = [4005, 4006];
const CROWDED_FAILURES = 3;
const WEBSOCKET_TRIES = 2;
/** 服务器提前一分钟提醒；没收到提醒的，这么早自己换。 */
const REFRESH_EARLY_MS = 30_000;
const MIN_REFRESH_MS = 10_000;
const TOKEN_TIMEOUT_MS = 60_000;

type TimerName = "retry" | "open" | "beat" | "dead" | "refresh" | "switch";

export class Line {
  state: ConnectionState = IDLE;
  /** 每次尝试一个号：旧尝试迟到的回调据此作废。 */
  #run = 0;
  #transport: Transport | null = null;
  #kind: TransportKind = "websocket";
  #timers = new Map<TimerName, number>();
  #failures = 0;
  #socketFailures = 0;
  /** 在此之前用 SSE。 */
  #streamUntil = 0;
  #liveSince: number | null = null;
  #heardAt = 0;
  #fresh = false;
  #refreshedAt = -Infinity;
  #window = 0;
  #welcome: Welcome | null = null;

  constructor(
    private settings: Settings,
    private tokens: Tokens,
    private host: LineHost,
  ) {}

  start(): void {
    if (!this.state.final) return;
    this.#failures = 0;
    void this.#connect();
  }

  stop(reason = "stopped", code: number | null = null): void {
    this.#drop();
    this.#become({ code, reason, final: true });
  }

  /** 等着就现在连；别的时候无事。 */
  retryNow(): void {
    if (this.state.retryAt !== null) void this.#connect();
  }

  send(frame: ClientFrame): boolean {
    return this.#transport?.send(frame) ?? false;
  }

  get kind(): TransportKind | null {
    return this.state.name === "connected" ? this.#kind : null;
  }

  /** 网络也许换过、机器也许睡过：马上问一句，等得短。 */
  probe(): void {
    if (this.state.name !== "connected") return;
    if (this.#kind === "websocket") this.#beat(true);
    else if (this.#now() - this.#heardAt > this.settings.silentAfterMs) this.#lose("server_silent");
  }

  /** 网络回来了。 */
  online(): void {
    this.probe();
    if (this.state.retryAt === null) return;
    this.#failures = 0;
    this.#retryIn(this.#jitter(), this.state);
  }

  /** 丢下这一条，带着位置再连。 */
  reconnect(reason: string): void {
    if (this.state.name === "connected") this.#lose(reason);
  }

  // ── 连 ──────────────────────────────────────────────────────────────────

  async #connect(): Promise<void> {
    this.#drop();
    const run = this.#run;
    this.#become({ name: "connecting" });
    this.#set("open", TOKEN_TIMEOUT_MS, () => this.#lose("token_unavailable"));
    try {
      const token = await this.tokens.get(this.#fresh);
      if (run !== this.#run) return;
      this.#open(token, run);
    } catch (error) {
      if (run !== this.#run) return;
      this.host.failed(error);
      const { temporary, code } = (error ?? {}) as PushError;
      if (temporary === false) this.stop(code ?? "no_token");
      else this.#lose("token_unavailable");
    }
  }

  #open(token: string, run: number): void {
    this.#fresh = false;
    this.#kind = this.#choose();
    this.#heardAt = this.#now();
    this.#set("open", this.settings.openTimeoutMs, () => this.#lose("open_timeout"));
    const listener = {
      heard: () => void (this.#heardAt = this.#now()),
      frame: (frame: ServerFrame) => void (run === this.#run && this.#receive(frame)),
      garbage: () => void (run === this.#run && this.host.failed(new PushError("bad_frame"))),
      closed: (end: End) => void (run === this.#run && this.#lost(end)),
    };
    const user = encodeURIComponent(this.host.userId(token));
    const { WebSocket: Socket, fetch: get } = this.settings;
    if (this.#kind === "sse") {
      this.#transport = openStream(get, this.#address(`sse/user/${user}/messages`), token, listener);
    } else if (Socket) {
      const address = this.#address(`ws/user/${user}/messages`);
      this.#transport = openWebSocket(Socket, address, token, listener);
    } else {
      throw new PushError("no_websocket", "no WebSocket here: give the `ws` package's, or transport sse");
    }
  }

  #choose(): TransportKind {
    const { transport, WebSocket: Socket, websocketRetryMs } = this.settings;
    if (transport !== "auto") return transport;
    if (!Socket) return "sse";
    if (this.#streamUntil > this.#now()) return "sse";
    if (this.#streamUntil > 0) {
      // 到时候了：试一次，不成就回来
      [this.#streamUntil, this.#socketFailures] = [0, WEBSOCKET_TRIES - 1];
      return "websocket";
    }
    if (this.#socketFailures < WEBSOCKET_TRIES) return "websocket";
    this.#streamUntil = this.#now() + websocketRetryMs;
    return "sse";
  }

  #address(path: string): URL {
    const url = new URL(path, this.settings.url);
    const { deviceInfo } = this.settings;
    const query = { device_id: this.host.deviceId(), device_info: deviceInfo, ...this.host.claim() };
    for (const [name, value] of Object.entries(query)) {
      if (value !== "") url.searchParams.set(name, String(value));
    }
    return url;
  }

  // ── 断 ──────────────────────────────────────────────────────────────────

  #lose(reason: string): void {
    this.#lost({ code: null, reason });
  }

  /** 4500–4999 不可重连，别的一律退避后再来。 */
  #lost(end: End): void {
    const { code, retryAfterMs } = end;
    if (code !== null && code >= 4500 && code <= 4999) return this.stop(end.reason, code);
    const elsewhere = this.#countSocketFailure(code);
    if (code === TOKEN_EXPIRED) {
      if (this.tokens.usedUp) return this.stop("token_expired", code);
      this.#fresh = true;
    }
    this.#forgive();
    if (CROWDED.includes(code!)) this.#failures = Math.max(this.#failures, CROWDED_FAILURES);
    const { random } = this.settings;
    // 窗口 0 不是窗口：所有人立刻一起回来，正是要避免的
    const delay = this.#window > 0 ? random() * this.#window : this.#jitter();
    if (this.#window <= 0) this.#failures += 1;
    this.#retryIn(elsewhere ? 0 : delay + (retryAfterMs ?? 0), { code, reason: end.reason || `closed_${code}` });
  }

  /**
   * 没等到 `welcome`、也不是服务器自己关的：这条路也许不通。离线时不算。
   *
   * 浏览器不说为什么不通，也许只是服务器在重启：立刻（返回 true）走 SSE 看看。它也不通，就不是路的事，从头数；
   * 它通，这条路才真的不通。隔一会儿再看，看见的可能已是重启好了的服务器。
   */
  #countSocketFailure(code: number | null): boolean {
    if (this.state.name !== "connecting" || this.#transport === null) return false;
    if ((code !== null && code >= 4000) || globalThis.navigator?.onLine === false) return false;
    if (this.#kind === "websocket") this.#socketFailures += 1;
    else [this.#socketFailures, this.#streamUntil] = [0, 0];
    return this.settings.transport === "auto" && this.#socketFailures >= WEBSOCKET_TRIES;
  }

  /** 活得够久的连接：退避从头来。 */
  #forgive(): void {
    if (this.#liveSince !== null && this.#now() - this.#liveSince >= this.settings.stableAfterMs) this.#failures = 0;
  }

  /** 全抖动，从第一次起：服务器重启时所有客户端同时断开，差别只能来自这里。 */
  #jitter(): number {
    const { backoffBaseMs, backoffCapMs, random } = this.settings;
    return random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** Math.min(this.#failures, 32));
  }

  #retryIn(delay: number, { code, reason }: { code: number | null; reason: string }): void {
    this.#drop();
    this.#set("retry", delay, () => void this.#connect());
    this.#become({ code, reason, retryAt: this.#now() + delay });
  }

  /** 网络断了时浏览器的 close 事件可以迟到几十秒：不等它。 */
  #drop(): void {
    this.#run += 1;
    for (const timer of this.#timers.values()) this.settings.clock.clear(timer);
    this.#timers.clear();
    this.#transport?.close();
    [this.#transport, this.#liveSince, this.#welcome, this.#window] = [null, null, null, 0];
  }

  #become(state: Partial<ConnectionState>): void {
    const transport = state.name === "connected" ? this.#kind : null;
    this.state = { ...IDLE, reason: "", final: false, ...state, transport };
    this.host.state(this.state);
  }

  // ── 连着 ────────────────────────────────────────────────────────────────

  #receive(frame: ServerFrame): void {
    if (frame.type === "welcome") return this.#welcomed(frame);
    if (this.#welcome === null) return; // 第一帧必须是 welcome
    if (frame.type === "token_expiring") void this.#refreshToken();
    else if (frame.type === "token_refreshed") this.#refreshBefore(frame.token_expires_at);
    else if (frame.type === "heartbeat_ack") this.#beatLater(); // 由来的帧安排：自续的定时器在后台会被降到一分钟一次
    else if (frame.type === "notice") this.#window = (frame as Notice).reconnect_after_ms;
    this.host.frame(frame);
  }

  #welcomed(frame: Welcome): void {
    this.#clear("open");
    this.#welcome = frame;
    this.#liveSince = this.#now();
    if (this.#kind === "websocket") {
      this.#socketFailures = 0;
      this.#beatLater();
      this.#refreshBefore(frame.token_expires_at);
    } else {
      this.#listenOn();
      if (this.#streamUntil > 0) {
        this.#set("switch", this.#streamUntil - this.#now(), () => {
          this.#forgive(); // 不然从前的失败留着：换回去的 WebSocket 又断，等的就是最长的退避
          void this.#connect();
        });
      }
    }
    this.#become({ name: "connected" });
    this.host.frame(frame);
  }

  #beatLater(): void {
    const interval = this.#welcome!.heartbeat_interval_s * 1_000;
    const due = this.#now() + interval;
    this.#set("beat", interval, () => {
      // 计时的也睡过：连接多半已经没了，等得短些
      this.#beat(this.#now() - due > interval);
    });
  }

  /** `suspicious`：连接也许已经没了，等得短些。 */
  #beat(suspicious: boolean): void {
    const sentAt = this.#now();
    const { connection_id } = this.#welcome!;
    this.send({ type: "heartbeat", timestamp: sentAt, connection_id });
    this.#beatLater();
    // 间隔比等的还短：已经在等的那一次照旧，不然永远等不到
    if (this.#timers.has("dead") && !suspicious) return;
    const { probeAfterMs, deadAfterMs } = this.settings;
    this.#set("dead", suspicious ? probeAfterMs : deadAfterMs, () => {
      if (this.#heardAt < sentAt) this.#lose("server_silent");
    });
  }

  #listenOn(): void {
    const left = () => this.#heardAt + this.settings.silentAfterMs - this.#now();
    this.#set("dead", left(), () => (left() > 0 ? this.#listenOn() : this.#lose("server_silent")));
  }

  /** 时刻按服务器的钟算：我们的可以偏。 */
  #refreshBefore(expiresAt: number): void {
    if (!this.tokens.renewable || !(expiresAt > 0)) return;
    const skew = this.#welcome!.server_time - this.#liveSince!;
    const left = expiresAt - (this.#now() + skew) - REFRESH_EARLY_MS;
    if (left > 0) this.#set("refresh", left, () => void this.#refreshToken());
  }

  async #refreshToken(): Promise<void> {
    // 令牌的寿命短于提前提醒的时间时，不至于一直换下去
    if (this.#now() - this.#refreshedAt < MIN_REFRESH_MS || !this.tokens.renewable) return;
    if (this.#kind !== "websocket") return;
    this.#refreshedAt = this.#now();
    const run = this.#run;
    try {
      const token = await this.tokens.get(true);
      if (run === this.#run) this.send({ type: "refresh_token", token });
    } catch (error) {
      // 不必就此断开：真到期时服务器以 4004 关闭，重连前会再换一次
      this.host.failed(error);
    }
  }

  #set(name: TimerName, ms: number, act: () => void): void {
    this.#clear(name);
    const due = () => (this.#timers.delete(name), act());
    this.#timers.set(name, this.settings.clock.set(due, ms));
  }

  #clear(name: TimerName): void {
    const timer = this.#timers.get(name);
    if (timer !== undefined) this.settings.clock.clear(timer);
    this.#timers.delete(name);
  }

  #now(): number {
    return this.settings.clock.now();
  }
}

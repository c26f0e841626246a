/**
 * 浏览器里的推送客户端：一个标签页就是一台设备。没有外部依赖。
 *
 *   const client = new PushClient({ url, userId, getToken, onMessages, onState, onFrame });
 *   client.start();
 *
 * - `url`：服务器的根（http、https 均可）；`getToken(refresh)` 给访问令牌，`refresh` 为真时必须是新的。
 *   它抛出的错误带 `temporary: false` 就不再重连，别的照常退避后再试。
 * - `onMessages(messages)`：未见过的消息，按到达次序；正常返回（或承诺兑现）即已应用，随后才确认。
 *   抛出则不确认，并重连让服务器再推一次。至少一次由服务器保证，恰好一次靠按 message_id 去重。
 * - `onState({ name, … })`：connecting · live · waiting（retryAt 毫秒、reason）· stopped（code、reason）。
 * - `onFrame(frame)`：其余每一帧：welcome、read_sync、receipt、gap、resync、notice、error …
 */

import { Acks } from "./acks.js";
import { Position } from "./position.js";

const SUBPROTOCOL = "meeting-push.v1";
const TOKEN_EXPIRED = 4004;

const DEFAULTS = {
  backoffBaseMs: 1_000,
  backoffCapMs: 60_000,
  stableAfterMs: 10_000, // 活过这么久，退避从头算
  openTimeoutMs: 10_000,
  deadAfterMs: 10_000, // 心跳发出后这么久没有任何帧，就当服务器已死
  ackDelayMs: 50,
  minRefreshMs: 10_000, // 令牌寿命短于提前提醒的时间时，不至于一直换下去
  rememberIds: 5_000,
};

export class PushClient {
  #config;
  #state = { name: "stopped", code: null, reason: "not_started" };
  #socket = null;
  /** 每次尝试一个号：旧尝试迟到的回调据此作废。 */
  #run = 0;
  #timers = { retry: 0, open: 0, beat: 0, dead: 0, ack: 0 };
  #failures = 0;
  #liveSince = null;
  #heardAt = 0;
  #refreshFirst = false;
  #refreshedAt = -Infinity;
  #reconnectWindowMs = null;
  #welcome = null;
  #deviceId = null;
  #position = new Position();
  #acks = new Acks();
  #seen = new Set();
  /** 帧逐个处理：位置、去重、确认都依赖次序。 */
  #work = Promise.resolve();
  #onOnline = () => this.#state.name === "waiting" && this.#retryIn(this.#jitter(0));
  #onVisible = () => {
    if (document.visibilityState !== "visible") return;
    if (this.#state.name === "waiting") this.retryNow();
    else if (this.#state.name === "live") this.#beat(); // 睡过一觉的机器：立刻试探
  };

  /** `config`：上面说的各项、`deviceInfo`（给人看的设备名），以及想改的默认值。 */
  constructor(config) {
    this.#config = { ...DEFAULTS, onState() {}, onFrame() {}, deviceInfo: "", ...config };
  }

  get state() {
    return this.#state;
  }

  start() {
    if (this.#state.name !== "stopped") return;
    window.addEventListener("online", this.#onOnline);
    document.addEventListener("visibilitychange", this.#onVisible);
    this.#connect();
  }

  stop() {
    this.#end(1000, "stopped");
  }

  /** 等待中就立刻重连；别的时候无事。 */
  retryNow() {
    if (this.#state.name === "waiting") this.#connect();
  }

  /** 送一帧；没连着则什么也不做，返回 false。 */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  // ── 连与断 ────────────────────────────────────────────────────────────────

  async #connect() {
    this.#dropSocket();
    const run = this.#run;
    this.#become({ name: "connecting" });
    try {
      const token = await this.#config.getToken(this.#refreshFirst);
      if (run !== this.#run) return;
      this.#refreshFirst = false;
      this.#open(token, run);
    } catch (error) {
      if (run !== this.#run) return;
      if (error.temporary === false) this.#end(null, error.code ?? "no_token");
      else this.#lost(null, "token_unavailable");
    }
  }

  #open(token, run) {
    const socket = new WebSocket(this.#address(), [SUBPROTOCOL, `bearer.${token}`]);
    this.#socket = socket;
    this.#timers.open = setTimeout(() => this.#lost(null, "open_timeout"), this.#config.openTimeoutMs);
    socket.onmessage = (event) => run === this.#run && this.#receive(event.data);
    socket.onclose = (event) => run === this.#run && this.#lost(event.code, event.reason);
  }

  /** 令牌从不进 URL。 */
  #address() {
    const url = new URL(`ws/user/${encodeURIComponent(this.#config.userId)}/messages`, this.#config.url);
    url.protocol = url.protocol.replace("http", "ws");
    const query = { ...this.#position.claim, device_info: this.#config.deviceInfo };
    if (this.#deviceId !== null) query.device_id = this.#deviceId;
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url;
  }

  /** 4500–4999 不可重连，别的一律退避后再来。 */
  #lost(code, reason) {
    if (code >= 4500 && code <= 4999) return this.#end(code, reason);
    const lived = this.#liveSince === null ? 0 : performance.now() - this.#liveSince;
    if (lived >= this.#config.stableAfterMs) this.#failures = 0;
    this.#refreshFirst ||= code === TOKEN_EXPIRED;
    const window = this.#reconnectWindowMs; // 服务器说的；0 是没有窗口
    const delay = window > 0 ? Math.random() * window : this.#jitter(this.#failures++);
    return this.#retryIn(delay, reason || `closed_${code}`);
  }

  /** 全抖动，从第一次起：服务器重启时所有客户端同时断开，差别只能来自这里。 */
  #jitter(failures) {
    const { backoffBaseMs, backoffCapMs } = this.#config;
    return Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** Math.min(failures, 32));
  }

  #retryIn(delay, reason = "") {
    this.#dropSocket();
    this.#timers.retry = setTimeout(() => this.#connect(), delay);
    this.#become({ name: "waiting", retryAt: Date.now() + delay, reason });
  }

  #end(code, reason) {
    this.#dropSocket();
    window.removeEventListener("online", this.#onOnline);
    document.removeEventListener("visibilitychange", this.#onVisible);
    this.#become({ name: "stopped", code, reason });
  }

  /** 网络断了时浏览器的 close 事件可以迟到几十秒：不等它。 */
  #dropSocket() {
    this.#run += 1;
    for (const [name, timer] of Object.entries(this.#timers)) {
      clearTimeout(timer);
      this.#timers[name] = 0;
    }
    this.#socket?.close(1000);
    this.#socket = this.#liveSince = this.#reconnectWindowMs = null;
  }

  #become(state) {
    this.#state = state;
    this.#config.onState(state);
  }

  // ── 收 ────────────────────────────────────────────────────────────────────

  #receive(text) {
    this.#heardAt = performance.now();
    const frame = JSON.parse(text);
    if (frame.type === "welcome") this.#welcomed(frame);
    else if (frame.type === "heartbeat_ack") this.#beatLater();
    else if (frame.type === "ack_result") this.#acks.confirmed(frame.request_id);
    else if (frame.type === "token_expiring") this.#refreshToken();
    this.#work = this.#work.then(() => this.#handle(frame)).catch((error) => this.#failed(error));
  }

  #welcomed(frame) {
    clearTimeout(this.#timers.open);
    this.#welcome = frame;
    this.#deviceId = frame.device_id;
    this.#liveSince = performance.now();
    this.#become({ name: "live" });
    this.#acks.reopen();
    this.#ackLater();
    this.#beatLater();
  }

  async #handle(frame) {
    switch (frame.type) {
      case "new_message":
        return this.#take([frame]);
      case "batch":
        return this.#take(frame.messages);
      case "welcome":
        this.#position.opened(frame);
        break;
      case "gap":
        this.#position.gap(frame);
        break;
      case "resync":
        this.#position.resynced(frame);
        break;
      case "notice":
        this.#reconnectWindowMs = frame.reconnect_after_ms; // draining、node_unhealthy …
        break;
      case "error":
        if (!frame.temporary) this.#acks.confirmed(frame.request_id);
        break;
    }
    return this.#config.onFrame(frame);
  }

  async #take(messages) {
    const fresh = messages.filter(({ message_id: id }) => !this.#seen.has(id));
    if (fresh.length > 0) await this.#config.onMessages(fresh);
    for (const { message_id: id, seq, broadcast_id: broadcast } of messages) {
      this.#remember(id);
      if (!(seq > 0 || broadcast > 0)) continue; // 瞬时消息不在信箱里，也不用确认
      if (seq > 0) this.#position.applied(seq);
      this.#acks.add(id); // 重复的也要：上一次的确认可能没到
    }
    this.#ackLater();
  }

  #remember(id) {
    this.#seen.add(id);
    if (this.#seen.size > this.#config.rememberIds) this.#seen.delete(this.#seen.values().next().value);
  }

  /** 应用没处理成：不声称任何位置，重连后信箱会再推一次。 */
  #failed(error) {
    reportError(error);
    this.#position.forget();
    if (this.#state.name === "live") this.#lost(null, "handler_failed");
  }

  // ── 送 ────────────────────────────────────────────────────────────────────

  #ackLater() {
    this.#timers.ack ||= setTimeout(() => this.#sendAcks(), this.#config.ackDelayMs);
  }

  #sendAcks() {
    this.#timers.ack = 0;
    if (this.#state.name !== "live") return;
    for (let frame = this.#acks.take(); frame !== null; frame = this.#acks.take()) this.send(frame);
  }

  /** 由收到的帧来安排，不用 setInterval：后台标签页里自续的定时器会被降到一分钟一次。 */
  #beatLater() {
    clearTimeout(this.#timers.dead);
    clearTimeout(this.#timers.beat);
    const interval = this.#welcome.heartbeat_interval_s * 1000;
    this.#timers.beat = setTimeout(() => this.#beat(), interval);
  }

  #beat() {
    clearTimeout(this.#timers.beat);
    clearTimeout(this.#timers.dead);
    const sentAt = performance.now();
    const { connection_id } = this.#welcome;
    this.send({ type: "heartbeat", timestamp: Date.now(), connection_id });
    this.#timers.dead = setTimeout(() => {
      if (this.#heardAt > sentAt) this.#beatLater();
      else this.#lost(null, "server_silent");
    }, this.#config.deadAfterMs);
  }

  async #refreshToken() {
    if (performance.now() - this.#refreshedAt < this.#config.minRefreshMs) return;
    this.#refreshedAt = performance.now();
    const run = this.#run;
    try {
      const token = await this.#config.getToken(true);
      if (run === this.#run) this.send({ type: "refresh_token", token });
    } catch {
      // 不必就此断开：真到期时服务器以 4004 关闭，重连前会再换一次
    }
  }
}

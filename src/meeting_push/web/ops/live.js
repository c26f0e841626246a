/**
 * 实时的数：管理员自己的 WebSocket 上的 `ops` 帧；它不在时轮询 `GET /stats`，并且说出来。
 *
 * 事件：`figures`（有新的数）、`mode`（live · polling · connecting · away）、`messages`、
 * `refused`（不许看，`detail` 是那个错误）。
 */

import { PushClient } from "../meeting-push.js";
import { root } from "../rest.js";

const WATCH_EVERY_S = 2;
const POLL_MS = 5_000;
/** 这么久没有 `ops` 帧就去问：丢得起两帧。 */
const SILENT_MS = WATCH_EVERY_S * 3_000;
/** 留着给曲线的点：十五分钟。 */
const KEPT = 450;

export class Live extends EventTarget {
  #session;
  #client = null;
  #timer = 0;
  #heardAt = 0;
  #asking = false;
  mode = "connecting";
  /** 这条连接上收到的本人的消息。 */
  messages = 0;
  stats = null;
  /** 此刻的各个数，名字与 `/stats/history` 一样。 */
  figures = {};
  /** 近来的：{ at, figures }，旧的在前。 */
  recent = [];

  constructor(session) {
    super();
    this.#session = session;
  }

  start() {
    const { userId } = this.#session.user;
    if (userId !== null) {
      this.#client = new PushClient({
        url: root,
        userId,
        deviceInfo: `Operations (${navigator.platform})`,
        token: ({ fresh }) => this.#session.accessToken(fresh),
        worker: false, // 这里的 CSP 不许
      });
      this.#client.on("messages", (messages) => this.#arrived(messages));
      this.#client.on("frame", (frame) => this.#frame(frame));
      this.#client.start();
    }
    this.#timer = setInterval(() => this.#pollIfSilent(), POLL_MS);
    this.#poll();
  }

  stop() {
    clearInterval(this.#timer);
    this.#client?.stop();
    this.#client = null;
    this.#session = null;
  }

  #arrived(messages) {
    this.messages += messages.length;
    this.dispatchEvent(new Event("messages"));
  }

  #frame(frame) {
    if (frame.type === "welcome") {
      this.#client?.say({ type: "ops_watch", every_s: WATCH_EVERY_S });
    } else if (frame.type === "ops") {
      this.#heardAt = Date.now();
      this.#take(frame.stats, frame.at);
      this.#become("live");
    }
  }

  #pollIfSilent() {
    if (Date.now() - this.#heardAt > SILENT_MS && !document.hidden) this.#poll();
  }

  async #poll() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      const stats = await this.#session.call("GET", "stats");
      if (this.#session === null) return;
      this.#take(stats, Date.now());
      if (Date.now() - this.#heardAt > SILENT_MS) this.#become("polling");
    } catch (error) {
      if (this.#session === null) return;
      if (error.status === 403) this.dispatchEvent(new CustomEvent("refused", { detail: error }));
      else this.#become("away");
    } finally {
      this.#asking = false;
    }
  }

  #take(stats, at) {
    this.stats = stats;
    this.figures = figuresOf(stats);
    this.recent.push({ at, figures: this.figures });
    if (this.recent.length > KEPT) this.recent.shift();
    this.dispatchEvent(new Event("figures"));
  }

  #become(mode) {
    if (mode === this.mode) return;
    this.mode = mode;
    this.dispatchEvent(new Event("mode"));
  }
}

/** 进行中的队列；死信与预约的不算堆积。 */
const FLOWING = ["priority_message_queue", "message_delivery_queue", "bulk_message_queue"];

function figuresOf(stats) {
  const { nodes, queues, per_s: rates, latency_ms: latency } = stats;
  const flowing = queues.filter(({ name }) => FLOWING.includes(name));
  return {
    sockets: stats.sockets,
    online_users: stats.online_users,
    nodes: stats.node_count,
    accepted_per_s: sum(nodes, (node) => total(node.per_s.messages_accepted)),
    delivered_per_s: rates.delivered,
    pushed_per_s: rates.frames_pushed,
    acked_per_s: rates.acks,
    failed_per_s: sum(nodes, (node) => node.per_s.recipients_ended?.failed ?? 0),
    expired_per_s: sum(nodes, (node) => node.per_s.recipients_ended?.expired ?? 0),
    push_p50_ms: latency.push?.p50 ?? null,
    push_p95_ms: latency.push?.p95 ?? null,
    push_p99_ms: latency.push?.p99 ?? null,
    ack_p95_ms: latency.ack?.p95 ?? null,
    queue_length: sum(flowing, (queue) => queue.length),
    queue_lag_ms: greatest(flowing, (queue) => queue.oldest_age_ms),
    dead_letters: queues.find(({ name }) => name === "dead_letter_queue")?.length ?? null,
    waiting_recipients: sum(nodes, ({ gauges }) => gauges.unacked_messages ?? 0),
    redis_round_trip_ms: seconds(nodes, (gauges) => gauges.redis_last_round_trip_seconds),
    database_round_trip_ms: seconds(nodes, (gauges) => gauges.database_last_round_trip_seconds),
    cpu_ratio: gauge(nodes, (gauges) => gauges.resource_usage_ratio?.cpu),
    memory_ratio: gauge(nodes, (gauges) => gauges.resource_usage_ratio?.memory),
    disk_ratio: gauge(nodes, (gauges) => gauges.resource_usage_ratio?.disk),
    open_files_ratio: gauge(nodes, (gauges) => gauges.resource_usage_ratio?.open_files),
    loop_lag_ms: seconds(nodes, (gauges) => gauges.event_loop_lag_max_seconds),
    alerts_firing: gauge(nodes, (gauges) => gauges.alerts_firing && total(gauges.alerts_firing)),
  };
}

const sum = (rows, of) => rows.reduce((so, row) => so + of(row), 0);

const total = (value) =>
  typeof value === "object" && value !== null ? sum(Object.values(value), Number) : (value ?? 0);

function greatest(rows, of) {
  const known = rows.map(of).filter((value) => typeof value === "number");
  return known.length ? Math.max(...known) : null;
}

const gauge = (nodes, of) => greatest(nodes, (node) => of(node.gauges));

function seconds(nodes, of) {
  const found = gauge(nodes, of);
  return found === null ? null : found * 1000;
}

/** 收：连接与应用之间的一站。去重、排队、记账、确认、存位置都在这里，没有网络。 */

import type { Emitter } from "./emitter.js";
import { PushError } from "./errors.js";
import type {
  AnyNewMessage,
  MessageType,
  Priority,
  Sender,
  ServerFrame,
  Time,
  Withdrawn,
} from "./frames.js";
import { Acks, Ledger, type Position, Recent } from "./ledger.js";
import type { Settings } from "./options.js";
import { type PositionStore, readState, storeOf } from "./store.js";

/** 交到应用手里的：`new_message` 的字段；瞬时的那种没给的，是这里写的缺省。 */
export interface Message {
  /** 没有的是广播或瞬时消息。 */
  readonly seq: number | null;
  readonly broadcast_id: number | null;
  /** 大于 0 是重推。 */
  readonly attempt: number;
  readonly message_id: string;
  readonly message_type: MessageType;
  readonly priority: Priority;
  readonly title: string;
  readonly content: string;
  readonly sender: Sender | null;
  readonly timestamp: Time | null;
  readonly expires_at: Time | null;
  readonly data: Record<string, unknown> | null;
  /** 现在就算已应用，不等处理函数返回；重复调用无害。 */
  ack(): void;
}

/** 断了也不会忘的事怎样说出去。 */
export interface Outlet {
  /** 这一批送出去了（回答由 `ack_result`、`settled` 来）；此刻送不了则 false。 */
  sendAcks(request: number, ids: string[]): boolean;
  /** 不握着连接的标签页：交给握着的那个。 */
  forward: ((ids: string[]) => void) | null;
}

interface Held {
  message: Message;
  epoch: string | null;
}

const BATCH = 50;
/** 存着的 id 比内存里的少：整份重写，`localStorage` 是同步的。 */
const STORED_IDS = 1_000;
/** 没办成的确认，过这么久再送；一直不成就翻倍，到顶为止。 */
const ACK_AGAIN_MS = 1_000;
const ACK_AGAIN_CAP_MS = 30_000;

export class Intake {
  deviceId: string;
  #store: PositionStore;
  #key = "";
  #ledger = new Ledger();
  #acks = new Acks();
  /** 应用过的。 */
  #done: Recent;
  /** 排着队或正在处理的：重推的不该再排一次。 */
  #held = new Map<string, Held>();
  #queue: Message[] = [];
  #pumping = false;
  #timer = 0;
  #ackAgainMs = ACK_AGAIN_MS;
  #unsaved = false;
  #storing = Promise.resolve();
  /** 上一次心跳时服务器最新的 seq：过了一个间隔还没到手，就是漏了。 */
  #expected = 0;

  constructor(
    private settings: Settings,
    private events: Emitter,
    private outlet: Outlet,
    private missed: () => void,
  ) {
    this.#store = storeOf(settings.store);
    this.#done = new Recent(settings.rememberIds);
    this.deviceId = settings.deviceId ?? "";
  }

  get claim(): Position | null {
    return this.#ledger.claim;
  }

  /** 读存着的；指定了别的 `deviceId` 就是另一台设备，旧账不算。 */
  async load(key: string): Promise<void> {
    this.#key = key;
    const text = await this.#attempt(() => this.#store.load(key));
    const state = readState(text ?? null);
    if (state && [undefined, state.device_id].includes(this.settings.deviceId)) {
      this.deviceId = state.device_id;
      this.#done = new Recent(this.settings.rememberIds, state.ids);
      this.#acks = new Acks(state.unconfirmed);
      if (state.epoch !== null) this.adopt({ epoch: state.epoch, last_seq: state.floor });
    }
    this.deviceId ||= randomId();
  }

  adopt(position: Position): void {
    this.#ledger.adopt(position);
  }

  // ── 帧 ──────────────────────────────────────────────────────────────────

  frame(frame: ServerFrame): void {
    switch (frame.type) {
      case "new_message":
        return this.#receive([frame]);
      case "batch": {
        const messages: AnyNewMessage[] = [];
        for (const one of Array.isArray(frame.messages) ? frame.messages : []) {
          if (one?.type === "withdrawn") this.frame(one);
          else messages.push(one);
        }
        return this.#receive(messages);
      }
      case "withdrawn":
        this.#withdrawn(frame);
        break;
      case "welcome": {
        const held = [...this.#held.values()].map(({ message }) => message.seq ?? 0);
        this.#ledger.opened(frame, held.filter(Boolean));
        this.#acks.reopen(frame.max_frame_bytes);
        this.#expected = 0;
        this.#changed();
        break;
      }
      case "gap":
        this.#ledger.gap(frame);
        this.#changed();
        break;
      case "resync":
        this.#ledger.resynced(frame);
        this.#changed();
        break;
      case "heartbeat_ack":
        if (this.#ledger.lacks(this.#expected)) this.missed();
        this.#expected = frame.seq;
        break;
      case "ack_result":
        this.confirmed(frame.request_id);
        break;
      case "error":
        this.refused(frame.request_id, frame.temporary);
        this.events.emit("error", new PushError(frame.code, frame.message, frame));
    }
    this.events.emit("frame", frame);
    if (frame.type !== "error") this.events.emit(frame.type, frame as never);
  }

  confirmed(request: unknown): void {
    this.#acks.confirmed(request);
    this.#ackAgainMs = ACK_AGAIN_MS;
    this.#changed();
  }

  /** 这一批没有办成：`temporary` 就过会儿再送。 */
  refused(request: unknown, temporary: boolean): void {
    if (!temporary) this.#acks.confirmed(request);
    else if (this.#acks.again(request)) {
      this.#flushIn(this.#ackAgainMs);
      this.#ackAgainMs = Math.min(ACK_AGAIN_CAP_MS, 2 * this.#ackAgainMs);
    }
  }

  // ── 消息 ────────────────────────────────────────────────────────────────

  #receive(frames: AnyNewMessage[]): void {
    for (const frame of Array.isArray(frames) ? frames : []) {
      if (typeof frame?.message_id !== "string") continue;
      const message = this.#messageOf(frame);
      const { message_id: id, seq } = message;
      if (seq !== null) this.#ledger.received(seq);
      // 应用过的仍要确认：上一次的也许没有到
      if (this.#done.has(id)) this.#settle(message, this.#ledger.epoch, true);
      else if (!this.#held.has(id) && this.#queue.length < this.settings.queueLimit) {
        this.#held.set(id, { message, epoch: this.#ledger.epoch });
        this.#queue.push(message);
      }
    }
    this.pump();
  }

  /** 占一个 seq 的通知：马上算已应用；那条消息没轮到的不再交给应用。 */
  #withdrawn(frame: Withdrawn): void {
    this.#ledger.received(frame.seq);
    this.#queue = this.#queue.filter(({ message_id: id }) => id !== frame.message_id);
    this.#settle(this.#messageOf(frame), this.#ledger.epoch, true);
  }

  #messageOf(frame: AnyNewMessage | Withdrawn): Message {
    const given: Partial<Message> = frame as never;
    const message: Message = {
      attempt: 0,
      message_type: "message",
      priority: 0,
      title: "",
      content: "",
      sender: null,
      timestamp: null,
      expires_at: null,
      data: null,
      ...(frame as { message_id: string }),
      seq: given.seq || null,
      broadcast_id: given.broadcast_id || null,
      ack: () => this.ack(message.message_id),
    };
    return message;
  }

  /** 逐条交给应用；没有处理函数就等着。 */
  pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    void this.#drain();
  }

  async #drain(): Promise<void> {
    const heard = () => this.events.of("message").length + this.events.of("messages").length > 0;
    while (this.#queue.length > 0 && heard()) {
      const batch = this.#queue.splice(0, this.events.of("messages").length ? BATCH : 1);
      try {
        for (const handler of this.events.of("messages")) await handler(batch);
        for (const message of batch) {
          for (const handler of this.events.of("message")) await handler(message);
          if (this.settings.ack === "handled") this.#settleHeld(message.message_id);
        }
      } catch (error) {
        this.#failed(batch, error as Error);
      }
    }
    this.#pumping = false; // 与上面的判断之间没有 await：不会有一条没人管
  }

  /** 没轮到的都丢掉，没确认的会再来；正在处理的继续。 */
  halt(): void {
    for (const { message_id: id } of this.#queue.splice(0)) this.#held.delete(id);
    this.settings.clock.clear(this.#timer);
    this.#timer = 0;
  }

  /** 应用没处理成：不确认；服务器重推、重连来时再交给它。 */
  #failed(batch: Message[], error: Error): void {
    for (const { message_id: id } of batch) this.#held.delete(id);
    this.events.emit("error", error);
  }

  /** 应用说这些处理完了；只给 id 也行。 */
  ack(...ids: string[]): void {
    for (const id of ids) {
      if (this.#held.has(id)) this.#settleHeld(id);
      else if (!this.#done.has(id)) this.#confirm(id);
    }
  }

  /** 别的标签页处理完的：代它确认；自己的应用还没有。 */
  ackFor(ids: string[]): void {
    for (const id of ids) if (!this.#done.has(id)) this.#acks.add(id);
    this.#changed();
  }

  #settleHeld(id: string): void {
    const held = this.#held.get(id);
    if (held) this.#settle(held.message, held.epoch, true);
  }

  #settle({ message_id: id, seq, broadcast_id }: Message, epoch: string | null, confirm: boolean): void {
    this.#held.delete(id);
    this.#done.add(id);
    if (seq !== null) this.#ledger.applied(seq, epoch);
    // 瞬时消息不在信箱里，也不用确认
    if (confirm && (seq !== null || broadcast_id !== null)) this.#acks.add(id);
    this.#changed();
  }

  #confirm(id: string): void {
    this.#done.add(id);
    this.#acks.add(id);
    this.#changed();
  }

  // ── 存与确认 ────────────────────────────────────────────────────────────

  #changed(): void {
    this.#unsaved = true;
    if (this.#timer === 0) this.#flushIn(this.settings.ackDelayMs);
  }

  #flushIn(ms: number): void {
    this.settings.clock.clear(this.#timer);
    this.#timer = this.settings.clock.set(() => void this.flush(), ms);
  }

  /** 先存后送：反过来的话，死在中间的页面会把应用过的再交给应用一次。 */
  async flush(): Promise<void> {
    this.settings.clock.clear(this.#timer);
    this.#timer = 0;
    const { forward } = this.outlet;
    if (forward) {
      for (let batch = this.#acks.take(); batch; batch = this.#acks.take()) {
        forward(batch.ids);
        this.#acks.confirmed(batch.request);
      }
      return;
    }
    await this.#save();
    for (let batch = this.#acks.take(); batch; batch = this.#acks.take()) {
      if (this.outlet.sendAcks(batch.request, batch.ids)) continue;
      this.#acks.again(batch.request); // 连上时再送
      break;
    }
  }

  /** 一次一份，按次序；存不了只说一声。 */
  #save(): Promise<void> {
    if (this.#unsaved && this.#key) {
      this.#unsaved = false;
      this.#storing = this.#storing.then(async () => {
        await this.#attempt(() => this.#store.save(this.#key, JSON.stringify(this.#snapshot())));
      });
    }
    return this.#storing;
  }

  #snapshot() {
    const { epoch = null, last_seq: floor = 0 } = this.claim ?? {};
    const [ids, unconfirmed] = [this.#done.newest(STORED_IDS), this.#acks.unconfirmed()];
    return { device_id: this.deviceId, epoch, floor, ids, unconfirmed };
  }

  async #attempt<T>(act: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await act();
    } catch (error) {
      this.events.emit("error", error as Error);
      return undefined;
    }
  }
}

export function randomId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}

/** 一个浏览器里的各个标签页：谁拿到锁谁握着连接，别的从频道上听。 */

import type { ClientFrame, ServerFrame } from "./frames.js";
import type { Position } from "./ledger.js";
import type { ConnectionState } from "./line.js";
import type { Clock } from "./clock.js";

type Note =
  | { kind: "hello" }
  | { kind: "state"; state: ConnectionState; position: Position | null }
  | { kind: "frame"; frame: ServerFrame }
  | { kind: "say"; frame: ClientFrame }
  | { kind: "ack"; ids: string[] }
  | { kind: "retry" };

export interface TabHost {
  /** 从此由这个标签页握着连接。 */
  lead(): void;
  /** 锁被别的标签页拿走了（我们睡着了）。 */
  follow(): void;
  state(): { state: ConnectionState; position: Position | null };
  heardState(state: ConnectionState, position: Position | null): void;
  heardFrame(frame: ServerFrame): void;
  heardSay(frame: ClientFrame): void;
  heardAck(ids: string[]): void;
  heardRetry(): void;
}

/** 握着连接的那个这么久不答应，就当它睡死了，拿走它的锁。 */
const SILENT_MS = 5_000;

export function canShare(): boolean {
  return typeof BroadcastChannel === "function" && Boolean(globalThis.navigator?.locks);
}

export class Tabs {
  leading = false;
  #channel: BroadcastChannel;
  #stopped = new AbortController();
  #release: () => void = () => {};
  #timer = 0;

  constructor(
    private name: string,
    private clock: Clock,
    private host: TabHost,
  ) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#heard(data as Note);
    this.#request({ signal: this.#stopped.signal });
    this.#post({ kind: "hello" });
  }

  stop(): void {
    this.#stopped.abort();
    this.clock.clear(this.#timer);
    this.#release();
    this.#channel.close();
  }

  tellState(): void {
    this.#post({ kind: "state", ...this.host.state() });
  }

  tellFrame(frame: ServerFrame): void {
    this.#post({ kind: "frame", frame });
  }

  say(frame: ClientFrame): void {
    this.#post({ kind: "say", frame });
  }

  ack(ids: string[]): void {
    this.#post({ kind: "ack", ids });
  }

  /** 请握着连接的那个现在就连。 */
  retry(): void {
    this.#post({ kind: "retry" });
  }

  /** 有人在看这个标签页：握着连接的那个得是醒着的。 */
  check(): void {
    if (this.leading) return;
    this.#post({ kind: "hello" });
    this.clock.clear(this.#timer);
    this.#timer = this.clock.set(() => this.#request({ steal: true }), SILENT_MS);
  }

  #request(options: LockOptions): void {
    const held = () => {
      if (this.#stopped.signal.aborted) return Promise.resolve();
      this.leading = true;
      this.clock.clear(this.#timer);
      this.host.lead();
      return new Promise<void>((resolve) => (this.#release = resolve));
    };
    navigator.locks.request(this.name, options, held).catch(() => {
      if (this.#stopped.signal.aborted || !this.leading) return;
      this.leading = false; // 被拿走了：排到后面去
      this.host.follow();
      this.#request({ signal: this.#stopped.signal });
    });
  }

  #heard(note: Note): void {
    if (note.kind === "state") {
      this.clock.clear(this.#timer);
      if (!this.leading) this.host.heardState(note.state, note.position);
    } else if (note.kind === "frame") {
      if (!this.leading) this.host.heardFrame(note.frame);
    } else if (!this.leading) return;
    else if (note.kind === "hello") this.tellState();
    else if (note.kind === "say") this.host.heardSay(note.frame);
    else if (note.kind === "ack") this.host.heardAck(note.ids);
    else this.host.heardRetry();
  }

  #post(note: Note): void {
    if (!this.#stopped.signal.aborted) this.#channel.postMessage(note);
  }
}

/** 一台设备的账：应用过什么，能声称到哪个位置，还欠哪些确认。纯计算。 */

import type { Gap, Resync, Welcome } from "./frames.js";

/** 断号之上最多记多少段；再多就丢掉最高的，代价只是重连时多收几条重复的。 */
const MAX_RANGES = 1_024;
const MAX_ACK_IDS = 1_000;
/** 一帧里除 id 以外的字节数，与一个 id 连同引号、逗号的。 */
const FRAME_OVERHEAD = 128;
const ID_BYTES = 29;
const MAX_BATCHES_IN_FLIGHT = 256;

export interface Position {
  epoch: string;
  last_seq: number;
}

/** 已了结的 seq：1…`floor` 全部，以及其上互不相邻的段。 */
class Settled {
  #ranges: [number, number][] = [];
  constructor(public floor: number) {}

  /** 了结 `low`…`high`（含两端）；空段与重复都无害。 */
  add(low: number, high: number): void {
    low = Math.max(low, this.floor + 1);
    if (low > high) return;
    const kept: [number, number][] = [];
    for (const range of this.#ranges) {
      if (range[1] < low - 1 || range[0] > high + 1) kept.push(range);
      else [low, high] = [Math.min(low, range[0]), Math.max(high, range[1])];
    }
    kept.push([low, high]);
    kept.sort((a, b) => a[0] - b[0]);
    if (kept[0]![0] === this.floor + 1) this.floor = kept.shift()![1];
    this.#ranges = kept.slice(0, MAX_RANGES);
  }

  has(seq: number): boolean {
    return seq <= this.floor || this.#ranges.some(([low, high]) => low <= seq && seq <= high);
  }

  countUpto(seq: number): number {
    const above = this.#ranges.map(([low, high]) => Math.max(0, Math.min(high, seq) - low + 1));
    return above.reduce((sum, count) => sum + count, Math.min(this.floor, seq));
  }
}

/** 有界的集合；最久没碰到的先忘掉。 */
export class Recent {
  #ids: Set<string>;
  constructor(private capacity: number, ids: Iterable<string> = []) {
    this.#ids = new Set(ids);
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }

  add(id: string): void {
    this.#ids.delete(id);
    this.#ids.add(id);
    if (this.#ids.size > this.capacity) this.#ids.delete(this.#ids.values().next().value!);
  }

  newest(count: number): string[] {
    return [...this.#ids].slice(-count);
  }
}

/**
 * 服务器先推完连接时的积压（flush，seq ≤ `welcome.seq`），再推之后的。积压按优先级在前，seq 不按次序来；
 * 推完时仍没出现的不会再来（别的设备确认过，或过期了），算已了结。
 */
export class Ledger {
  epoch: string | null = null;
  #settled = new Settled(0);
  /** 第一批积压推完之前，没有任何位置可以声称。 */
  #known = false;
  /** 到了手而尚未应用的 seq。 */
  #outstanding = new Set<number>();
  #flushUpto: number | null = null;
  /** 积压有几条；续传时 `pending` 不含记录里补来的，所以不知道。 */
  #flushSize: number | null = null;
  #flushSeen = new Set<number>();

  /** 重连时声称的：在 `epoch` 里 seq ≤ `last_seq` 的都已应用，或不会再来。 */
  get claim(): Position | null {
    if (this.epoch === null || !this.#known) return null;
    return { epoch: this.epoch, last_seq: this.#settled.floor };
  }

  /** 从别处接着：存着的，或别的标签页的。 */
  adopt({ epoch, last_seq }: Position): void {
    [this.epoch, this.#known, this.#settled] = [epoch, true, new Settled(last_seq)];
    this.#outstanding.clear();
    this.#flushUpto = null;
  }

  /** 收到 `welcome`；`held` 是还在手里的。没有续传时旧位置作废。 */
  opened({ epoch, seq, resumed, pending }: Welcome, held: Iterable<number>): void {
    if (epoch !== this.epoch) held = [];
    this.epoch = epoch;
    if (!resumed) [this.#settled, this.#known] = [new Settled(0), false];
    this.#outstanding = new Set(held);
    [this.#flushUpto, this.#flushSize] = [seq, resumed ? null : pending];
    this.#flushSeen.clear();
    this.#endFlushIfComplete();
  }

  /** 一条带 seq 的到了；重复的也算。 */
  received(seq: number): void {
    if (this.#flushUpto !== null && seq > this.#flushUpto) this.#endFlush();
    if (!this.#settled.has(seq)) this.#outstanding.add(seq);
    if (this.#flushUpto === null) return;
    this.#flushSeen.add(seq);
    this.#endFlushIfComplete();
  }

  /** 应用处理完一条；`epoch` 是收到它时的，换了代的 seq 不再有意义。 */
  applied(seq: number, epoch: string | null): void {
    if (epoch !== this.epoch) return;
    this.#outstanding.delete(seq);
    this.#settled.add(seq, seq);
  }

  /** 服务器宣告这一段不会再来；已到手的除外。 */
  gap({ from_seq, to_seq }: Gap): void {
    this.#settleAbsent(from_seq, to_seq);
  }

  /** 位置作废。紧跟 `welcome` 的那一个等积压推完才算数，否则会把没应用的说成已应用。 */
  resynced({ epoch, seq }: Resync): void {
    if (this.#flushUpto !== null && epoch === this.epoch) return;
    this.adopt({ epoch, last_seq: seq });
  }

  /** 到 `seq` 为止有没到手、也没说不来的。积压还在推时不知道，就说没有。 */
  lacks(seq: number): boolean {
    if (this.#flushUpto !== null || !this.#known) return false;
    const held = [...this.#outstanding].filter((one) => one <= seq).length;
    return this.#settled.countUpto(seq) + held < seq;
  }

  #endFlushIfComplete(): void {
    if (this.#flushSize !== null && this.#flushSeen.size >= this.#flushSize) this.#endFlush();
  }

  #endFlush(): void {
    const upto = this.#flushUpto!;
    [this.#flushUpto, this.#known] = [null, true];
    this.#settleAbsent(1, upto);
  }

  #settleAbsent(low: number, high: number): void {
    for (const seq of [...this.#outstanding].sort((a, b) => a - b)) {
      if (seq < low || seq > high) continue;
      this.#settled.add(low, seq - 1);
      low = seq + 1;
    }
    this.#settled.add(low, high);
  }
}

/** 确认要等服务器认下才算数：断线时在途的，下一条连接上重送（续传不会再推它们）。 */
export class Acks {
  #waiting: Set<string>;
  #inFlight = new Map<number, string[]>();
  #next = 1;
  #limit = MAX_ACK_IDS;
  constructor(ids: Iterable<string> = []) {
    this.#waiting = new Set(ids);
  }

  get waiting(): boolean {
    return this.#waiting.size > 0;
  }

  add(id: string): void {
    this.#waiting.add(id);
  }

  /** 取出一批去送；没有则 null。 */
  take(): { request: number; ids: string[] } | null {
    if (!this.waiting) return null;
    const ids = [...this.#waiting].slice(0, this.#limit);
    for (const id of ids) this.#waiting.delete(id);
    const request = this.#next++;
    this.#inFlight.set(request, ids);
    if (this.#inFlight.size > MAX_BATCHES_IN_FLIGHT) {
      this.#inFlight.delete(this.#inFlight.keys().next().value!);
    }
    return { request, ids };
  }

  /** 服务器认下了，或说永远不认；不是我们的号无害。 */
  confirmed(request: unknown): void {
    this.#inFlight.delete(request as number);
  }

  /** 这一批没有办成，再送；不是我们的号则 false。 */
  again(request: unknown): boolean {
    const ids = this.#inFlight.get(request as number);
    this.confirmed(request);
    for (const id of ids ?? []) this.#waiting.add(id);
    return ids !== undefined;
  }

  /** 新连接：没得到回答的排回最前面；一帧不超过服务器的上限。 */
  reopen(maxFrameBytes: number): void {
    const fits = Math.floor((maxFrameBytes - FRAME_OVERHEAD) / ID_BYTES);
    this.#limit = Math.min(MAX_ACK_IDS, Math.max(1, fits || MAX_ACK_IDS));
    this.#waiting = new Set(this.unconfirmed());
    this.#inFlight.clear();
  }

  unconfirmed(): string[] {
    return [...[...this.#inFlight.values()].flat(), ...this.#waiting];
  }
}

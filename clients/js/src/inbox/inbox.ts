/** 收件箱里的：以记录为准，推来的先放进去。铃铛与收件箱页面都建在它上面；没有界面。 */

import type { PushClient } from "../client.js";
import type { ServerFrame, UserId } from "../frames.js";
import type { Message } from "../intake.js";
import type { Counts, InboxItem, InboxQuery } from "../rest.js";

/** 看哪些；都没有说就是没有归档的全部。 */
export type View = Pick<InboxQuery, "unread" | "archived" | "message_type" | "min_priority" | "q">;

export type Item = Pick<
  InboxItem,
  "message_id" | "message_type" | "title" | "content" | "priority" | "expires_at" | "data"
> & {
  sender: InboxItem["sender"] | null;
  timestamp: number;
  read: boolean;
  archived: boolean;
  withdrawn: boolean;
  broadcast: boolean;
};

const PAGE = 30;
const MORE = 100;
const COUNT_DELAY_MS = 200;
const RELOADING = ["welcome", "gap", "resync"];
/** 撤回了的只剩这些；记录也许稍后才这样说。 */
const WITHDRAWN = { withdrawn: true, read: true, title: "", content: "", data: null };

export class Inbox {
  items: Item[] = [];
  counts: Counts = { unread: 0, urgent: 0, archived: 0, version: 0 };
  view: View = {};
  state: "loading" | "ready" | "failed" = "loading";
  cursor: string | null = null;
  #byId = new Map<string, Item>();
  /** 每次问一个号：迟到的旧回答作废。 */
  #asked = 0;
  #counted = 0;
  /** 问的时候推来的、改了的：回答可能比它们旧。 */
  #meanwhile = new Map<string, Patch>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #offs: (() => void)[] = [];
  /** 发送者的名字，记录里说的；问过而没有的是空的。 */
  #names = new Map<UserId, string>();

  constructor(
    private client: PushClient,
    private changed: (arrived: Item[]) => void,
  ) {}

  get unread(): number {
    return this.counts.unread;
  }

  start(): void {
    this.#offs = [
      this.client.on("messages", (messages) => this.#arrived(messages)),
      this.client.on("frame", (frame) => this.#frame(frame)),
      this.client.on("state", () => this.changed([])),
    ];
    void this.reload();
  }

  stop(): void {
    for (const off of this.#offs) off();
    clearTimeout(this.#timer);
    this.#asked = this.#counted = Infinity;
  }

  get(id: string): Item | undefined {
    return this.#byId.get(id);
  }

  /** 换一个看法：从头取。 */
  async show(view: View): Promise<void> {
    this.view = view;
    this.#byId.clear();
    [this.state, this.cursor] = ["loading", null];
    this.#show();
    await this.reload();
  }

  async reload(): Promise<void> {
    const mine = ++this.#asked;
    this.#meanwhile.clear();
    try {
      const page = await this.client.rest.inbox({ ...this.view, limit: PAGE });
      if (mine !== this.#asked) return;
      this.#forgetMissing(page.items, page.next_cursor);
      for (const item of page.items) this.#answered(itemOf(item));
      if (this.state !== "ready") this.cursor = page.next_cursor;
      this.state = "ready";
      this.#setCounts({ ...this.counts, unread: page.unread_count });
      this.#countSoon();
    } catch {
      if (mine !== this.#asked) return;
      if (this.items.length === 0) this.state = "failed";
    }
    this.#show();
  }

  async more(): Promise<void> {
    if (this.cursor === null) return;
    const mine = this.#asked;
    const page = await this.client.rest.inbox({ ...this.view, limit: MORE, cursor: this.cursor });
    if (mine !== this.#asked) return;
    for (const item of page.items) this.#answered(itemOf(item));
    this.cursor = page.next_cursor;
    this.#show();
  }

  // ── 做 ──────────────────────────────────────────────────────────────────

  async read(id: string, read = true): Promise<void> {
    if ((this.#byId.get(id)?.read ?? read) === read) return;
    if (isRecorded(id)) await this.#set([id], { read });
    else this.#apply([id], { read });
    this.#show();
  }

  async archive(id: string, archived = true): Promise<void> {
    if (isRecorded(id)) await this.#set([id], { archived });
    else this.#byId.delete(id);
    this.#show();
  }

  /** 到最新的一条为止；没显示出来的也在内。 */
  async readAll(): Promise<void> {
    const newest = this.items.find(({ message_id: id }) => isRecorded(id));
    if (!newest) return;
    const ids = this.items.map(({ message_id: id }) => id);
    const counting = ++this.#counted;
    const { unread_count } = await this.client.rest.markRead({ upto: newest.message_id });
    this.#apply(ids, { read: true });
    if (counting === this.#counted) this.#setCounts({ ...this.counts, unread: unread_count });
    this.#countSoon();
    this.#show();
  }

  async #set(ids: string[], state: { read?: boolean; archived?: boolean }): Promise<void> {
    const { unread_count, version } = await this.client.rest.setState(ids, state);
    this.#apply(ids, state);
    if (version >= this.counts.version) this.#setCounts({ ...this.counts, unread: unread_count, version });
    this.#countSoon();
  }

  // ── 推来的 ──────────────────────────────────────────────────────────────

  #arrived(messages: Message[]): void {
    const fresh = messages.filter(({ message_id: id }) => !this.#byId.has(id)).map((one) => this.#signed(itemOf(one)));
    const strangers = fresh.map(({ sender }) => sender).filter((one) => one?.id && !one.name);
    if (strangers.some((one) => !this.#names.has(one!.id!))) void this.reload();
    for (const one of strangers) this.#names.set(one!.id!, "");
    const shown = fresh.filter((item) => this.#fits(item));
    for (const item of shown) {
      this.#byId.set(item.message_id, item);
      this.#meanwhile.set(item.message_id, {});
    }
    this.#countSoon();
    this.#show(fresh);
  }

  #fits(item: Item): boolean {
    const { archived, message_type: kind, min_priority: least, q } = this.view;
    const sought = q?.toLowerCase();
    const within = (text: string) => sought == null || text.toLowerCase().includes(sought);
    return (
      !archived &&
      (kind ?? item.message_type) === item.message_type &&
      item.priority >= (least ?? 0) &&
      (within(item.title) || within(item.content))
    );
  }

  #frame(frame: ServerFrame): void {
    if (RELOADING.includes(frame.type)) void this.reload();
    else if (frame.type === "withdrawn") {
      const known = this.#byId.has(frame.message_id);
      if (!known) void this.reload(); // 从没有过它的，记录里是一块墓碑
      this.#apply([frame.message_id], WITHDRAWN);
      this.#countSoon();
      this.#show();
    } else if (frame.type === "read_sync") {
      this.#counted += 1;
      this.#apply(frame.message_ids, { read: true });
      this.#setCounts({ ...this.counts, unread: frame.unread_count });
      this.#countSoon();
      this.#show();
    } else if (frame.type === "inbox_sync") this.#synced(frame);
  }

  /** 比知道的旧：以记录为准，再取一遍。 */
  #synced({ message_ids: ids, read, archived, unread_count: unread, version }: Sync): void {
    if (version < this.counts.version) return void this.reload();
    this.#counted += 1;
    this.#apply(ids, { read, archived });
    this.#setCounts({ ...this.counts, unread, version });
    this.#countSoon();
    if (archived === !this.view.archived) this.#show();
    else void this.reload(); // 放回来的，这里没有它
  }

  /** 未读数只听记录的：自己加减，几台设备迟早对不上。 */
  #countSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const mine = ++this.#counted;
      const counts = await this.client.rest.counts().catch(() => null);
      if (mine !== this.#counted || counts === null || counts.version < this.counts.version) return;
      this.#setCounts(counts);
      this.#show();
    }, COUNT_DELAY_MS);
  }

  #setCounts(counts: Counts): void {
    this.counts = counts;
  }

  /** 令牌没有说名字的：名册说的在记录里，推来的没有。 */
  #signed(item: Item): Item {
    const { id, name } = item.sender ?? {};
    if (!id) return item;
    if (name) this.#names.set(id, name);
    return { ...item, sender: { id, name: name || (this.#names.get(id) ?? "") } };
  }

  #answered(item: Item): void {
    this.#signed(item);
    const next = { ...item, ...this.#meanwhile.get(item.message_id) };
    if (next.archived === Boolean(this.view.archived)) this.#byId.set(item.message_id, next);
  }

  /** 这一页该有而没有的：别处归档了、清理了。 */
  #forgetMissing(found: InboxItem[], cursor: string | null): void {
    const there = new Set(found.map(({ message_id: id }) => id));
    const last = found.at(-1)?.message_id ?? "";
    for (const id of [...this.#byId.keys()]) {
      const covered = cursor === null || id >= last;
      if (isRecorded(id) && covered && !there.has(id) && !this.#meanwhile.has(id)) this.#byId.delete(id);
    }
  }

  /** 没有说的（undefined）不变。 */
  #apply(ids: readonly string[], given: { [Name in keyof Patch]?: Patch[Name] | undefined }): void {
    const patch = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Patch;
    for (const id of ids) {
      this.#meanwhile.set(id, { ...this.#meanwhile.get(id), ...patch });
      const item = this.#byId.get(id);
      if (!item) continue;
      const next = { ...item, ...patch };
      if (next.archived === Boolean(this.view.archived)) this.#byId.set(id, next);
      else this.#byId.delete(id);
    }
  }

  #show(arrived: Item[] = []): void {
    this.items = [...this.#byId.values()].sort(newestFirst);
    this.changed(arrived);
  }
}

type Patch = Partial<Item>;
type Sync = Extract<ServerFrame, { type: "inbox_sync" }>;

/** 在记录里的 id 是 ULID；别的进程发布的瞬时消息不一定是，也没有已读可记。 */
export const isRecorded = (id: string) => /^[0-9A-Z]{26}$/.test(id);

/** 一条的样子：推来的只保证有 id、标题与正文。 */
export function itemOf(one: Message | InboxItem): Item {
  const { message_id, message_type, title, content, priority, sender, timestamp, expires_at, data } = one;
  const has = (name: string) => name in one && (one as Record<string, unknown>)[name] != null;
  return {
    ...{ message_id, message_type, title, content, priority, sender, expires_at, data },
    timestamp: timestamp !== null && timestamp <= LATEST_MS ? timestamp : Date.now(),
    read: has("read_at"),
    archived: has("archived_at"),
    withdrawn: has("withdrawn_at"),
    broadcast: has("broadcast_id") || ("broadcast" in one && one.broadcast === true),
  };
}

/** Date 能表示的最晚时刻。 */
const LATEST_MS = 8.64e15;

const newestFirst = (a: Item, b: Item) =>
  b.timestamp - a.timestamp || (a.message_id < b.message_id ? 1 : -1);

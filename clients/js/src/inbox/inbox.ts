/** 收件箱里的：以记录为准，推来的先放进去，已读不会变回未读。没有界面。 */

import type { PushClient } from "../client.js";
import type { ServerFrame } from "../frames.js";
import type { Message } from "../intake.js";
import type { InboxItem } from "../rest.js";

export type Item = Pick<InboxItem, "message_id" | "title" | "content" | "priority"> & {
  sender: InboxItem["sender"] | null;
  timestamp: number;
  read: boolean;
  withdrawn: boolean;
};

const PAGE = 30;
const COUNT_DELAY_MS = 200;
const RELOADING = ["welcome", "gap", "resync", "withdrawn"];

export class Inbox {
  items: Item[] = [];
  unread = 0;
  state: "loading" | "ready" | "failed" = "loading";
  cursor: string | null = null;
  #byId = new Map<string, Item>();
  /** 每次问一个号：迟到的旧回答作废。 */
  #asked = 0;
  #counted = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #offs: (() => void)[] = [];

  constructor(
    private client: PushClient,
    private changed: (arrived: Item[]) => void,
  ) {}

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

  async reload(): Promise<void> {
    const mine = ++this.#asked;
    try {
      const page = await this.client.rest.inbox({ limit: PAGE });
      if (mine !== this.#asked) return;
      for (const item of page.items) this.#keep(itemOf(item));
      if (this.state !== "ready") this.cursor = page.next_cursor;
      [this.state, this.unread] = ["ready", page.unread_count];
    } catch {
      if (mine !== this.#asked) return;
      if (this.items.length === 0) this.state = "failed";
    }
    this.#show();
  }

  async more(): Promise<void> {
    const page = await this.client.rest.inbox({ limit: PAGE, cursor: this.cursor });
    for (const item of page.items) this.#keep(itemOf(item));
    this.cursor = page.next_cursor;
    this.#show();
  }

  async read(id: string): Promise<void> {
    if (this.#byId.get(id)?.read ?? true) return;
    await this.#mark([id], () => this.client.rest.markRead([id]));
  }

  /** 到最新的一条为止；没显示出来的也在内。 */
  async readAll(): Promise<void> {
    const newest = this.items.find(({ message_id: id }) => /^[0-9A-Z]{26}$/.test(id));
    if (!newest) return;
    const ids = this.items.map(({ message_id: id }) => id);
    await this.#mark(ids, () => this.client.rest.markRead({ upto: newest.message_id }));
  }

  async #mark(ids: string[], tell: () => Promise<{ unread_count: number }>): Promise<void> {
    const counting = ++this.#counted;
    const { unread_count } = await tell();
    this.#markRead(ids);
    if (counting === this.#counted) this.unread = unread_count;
    this.#show();
  }

  #arrived(messages: Message[]): void {
    const fresh = messages.filter(({ message_id: id }) => !this.#byId.has(id)).map(itemOf);
    for (const item of fresh) this.#keep(item);
    this.#countSoon();
    this.#show(fresh);
  }

  #frame(frame: ServerFrame): void {
    if (RELOADING.includes(frame.type)) void this.reload();
    else if (frame.type === "read_sync") {
      this.#counted += 1;
      this.#markRead(frame.message_ids);
      this.unread = frame.unread_count;
      this.#show();
    }
  }

  /** 未读数只听记录的：自己加减，几台设备迟早对不上。 */
  #countSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const mine = ++this.#counted;
      const page = await this.client.rest.inbox({ limit: 1 }).catch(() => null);
      if (mine !== this.#counted || page === null) return;
      this.unread = page.unread_count;
      this.#show();
    }, COUNT_DELAY_MS);
  }

  #keep(item: Item): void {
    const read = item.read || (this.#byId.get(item.message_id)?.read ?? false);
    this.#byId.set(item.message_id, { ...item, read });
  }

  #markRead(ids: string[]): void {
    for (const id of ids) {
      const item = this.#byId.get(id);
      if (item) this.#byId.set(id, { ...item, read: true });
    }
  }

  #show(arrived: Item[] = []): void {
    this.items = [...this.#byId.values()].sort(newestFirst);
    this.changed(arrived);
  }
}

function itemOf(one: Message | InboxItem): Item {
  const { message_id, title, content, priority, sender, timestamp } = one;
  const read = "read_at" in one && one.read_at != null;
  const withdrawn = "withdrawn_at" in one && one.withdrawn_at != null;
  return { message_id, title, content, priority, sender, timestamp: timestamp ?? Date.now(), read, withdrawn };
}

const newestFirst = (a: Item, b: Item) =>
  b.timestamp - a.timestamp || (a.message_id < b.message_id ? 1 : -1);

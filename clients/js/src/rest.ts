/** 经 REST 的事，用同一个令牌。返回 contract 里的应答，拒绝则抛 `PushError`。 */

import { PushError, refusal } from "./errors.js";
import type { MessageType, Presence, Priority, Sender, Time, UserId } from "./frames.js";
import { randomId } from "./intake.js";
import type { Settings } from "./options.js";
import type { Tokens } from "./tokens.js";

export interface SendOptions {
  message_type?: MessageType;
  priority?: Priority;
  expires_in_s?: number;
  deliver_at?: Time;
  data?: Record<string, unknown>;
  receipt?: boolean;
  /** 缺省是随机的：没有回答、429、503 时带着同一个再来，不会发成两条。 */
  idempotencyKey?: string;
}

export interface Accepted {
  message_id: string;
  recipient_count: number;
  created_at: Time;
}

/** 收件箱的一条。 */
export interface InboxItem {
  message_id: string;
  message_type: MessageType;
  priority: Priority;
  title: string;
  content: string;
  sender: Sender;
  timestamp: Time;
  expires_at: Time | null;
  data: Record<string, unknown> | null;
  read_at: Time | null;
  archived_at?: Time | null;
  /** 发给所有人的。 */
  broadcast?: boolean;
  /** 撤回了：标题、正文是空的。 */
  withdrawn_at?: Time | null;
  [field: string]: unknown;
}

export interface InboxPage {
  items: InboxItem[];
  next_cursor: string | null;
  unread_count: number;
}

/** 都要满足；没有 `archived` 就是没有归档的，`q` 在最新的 10,000 条的标题与正文里找。 */
export type InboxQuery = {
  unread?: boolean;
  archived?: boolean;
  message_type?: MessageType | null;
  min_priority?: Priority | null;
  q?: string | null;
  cursor?: string | null;
  limit?: number;
};

export type PageQuery = Pick<InboxQuery, "cursor" | "limit">;

/** 自己发的一条；`recipient_count` 是 0：发给所有人的。 */
export interface SentItem extends InboxItem {
  recipient_count: number;
  deliver_at: Time | null;
  /** 头几个收件人；名字是名册说看得见的。从前的服务器不说。 */
  recipients?: { user_id: UserId; name: string | null }[];
}

/** 一页可以是短的、空的：`next_cursor` 是 null 才到底。 */
export interface SentPage {
  items: SentItem[];
  next_cursor: string | null;
}

/** `version` 只增：小的是旧的。 */
export interface Counts {
  unread: number;
  urgent: number;
  archived: number;
  version: number;
}

/** `unknown`：不是自己的、不存在的。 */
export interface StateChange {
  unread_count: number;
  version: number;
  unknown: string[];
}

/** 广播的 `total`、`pending` 是 null：总人数不得而知。 */
export interface DeliveryState {
  message_id: string;
  total: number | null;
  pending: number | null;
  delivered: number;
  failed: number;
  expired: number;
  withdrawn: number;
  recipients: {
    user_id: UserId;
    status: string;
    attempts: number;
    sent_at: Time | null;
    delivered_at: Time | null;
    failed_at: Time | null;
    failure_reason: string | null;
    /** 名册说看得见的；没有名册的服务器不说。 */
    name?: string | null;
  }[];
  next_cursor: string | null;
}

export type UserPresence = Pick<Presence, "user_id" | "online"> & {
  connection_count?: number;
  connections?: Record<string, unknown>[];
};

export interface CallOptions {
  body?: unknown;
  query?: Record<string, string | number | boolean | null | undefined>;
  headers?: Record<string, string>;
  /** 暂时办不成的再来几次；只给再来无害的。 */
  retries?: number;
}

const RETRIES = 4;

export class Rest {
  constructor(
    private settings: Settings,
    private tokens: Tokens,
  ) {}

  /** `path` 在 `/api/v1/` 之下。令牌刚过期的换一次再试。 */
  async call<T = unknown>(method: string, path: string, options: CallOptions = {}): Promise<T> {
    let renewed = false;
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#once<T>(method, path, options, renewed);
      } catch (error) {
        const { code, temporary, retryAfterMs } = error as PushError;
        const stale = code === "token_expired" && !renewed && this.tokens.renewable;
        if (stale) renewed = true;
        else if (!temporary || attempt >= (options.retries ?? 0)) throw error;
        else await this.#pause(attempt, retryAfterMs);
      }
    }
  }

  /** 发给这些人；202 就已提交，不会丢。 */
  send(
    recipients: UserId[],
    title: string,
    content: string,
    { idempotencyKey = randomId(), ...more }: SendOptions = {},
  ): Promise<Accepted> {
    const body = { recipient_ids: recipients, title, content, ...more };
    const headers = { "Idempotency-Key": idempotencyKey };
    return this.call("POST", "messages", { body, headers, retries: RETRIES });
  }

  /** 收件箱，新的在前。 */
  inbox(query: InboxQuery = {}): Promise<InboxPage> {
    return this.call("GET", "messages", { query, retries: RETRIES });
  }

  /** 自己发的，新的在前。 */
  sent(query: PageQuery = {}): Promise<SentPage> {
    return this.call("GET", "messages/sent", { query, retries: RETRIES });
  }

  counts(): Promise<Counts> {
    return this.call("GET", "messages/counts", { retries: RETRIES });
  }

  /** 已读、归档改成这样，没有说的不变；别的设备得到 `inbox_sync`。至多 1,000 条。 */
  setState(messageIds: string[], state: { read?: boolean; archived?: boolean }): Promise<StateChange> {
    const body = { message_ids: messageIds, ...state };
    return this.call("POST", "messages/state", { body, retries: RETRIES });
  }

  /** 归档；`false` 是放回去。 */
  archive(messageIds: string[], archived = true): Promise<StateChange> {
    return this.setState(messageIds, { archived });
  }

  /** 撤回自己发的：到处只剩墓碑。 */
  withdraw(messageId: string): Promise<null> {
    return this.call("DELETE", `messages/${encodeURIComponent(messageId)}`, { retries: RETRIES });
  }

  message(messageId: string): Promise<InboxItem> {
    return this.call("GET", `messages/${encodeURIComponent(messageId)}`, { retries: RETRIES });
  }

  /** 标为已读：这些，或到这一条为止；别的设备得到 `read_sync`。 */
  markRead(what: string[] | { upto: string }): Promise<{ unread_count: number }> {
    const body = Array.isArray(what) ? { message_ids: what } : { upto_message_id: what.upto };
    return this.call("POST", "messages/read", { body, retries: RETRIES });
  }

  delivery(messageId: string, query: PageQuery = {}): Promise<DeliveryState> {
    const path = `messages/${encodeURIComponent(messageId)}/delivery`;
    return this.call("GET", path, { query, retries: RETRIES });
  }

  presence(userId: UserId): Promise<UserPresence> {
    return this.call("GET", `presence/users/${encodeURIComponent(userId)}`, { retries: RETRIES });
  }

  async #once<T>(method: string, path: string, options: CallOptions, fresh: boolean): Promise<T> {
    const { url: root, fetch: get, requestTimeoutMs } = this.settings;
    const { body, query = {} } = options;
    const headers = new Headers(options.headers);
    headers.set("Authorization", `Bearer ${await this.tokens.get(fresh)}`);
    if (body !== undefined) headers.set("Content-Type", "application/json");
    const url = new URL(`api/v1/${path}`, root);
    for (const [name, value] of Object.entries(query)) {
      if (value != null) url.searchParams.set(name, String(value));
    }
    const response = await get(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(requestTimeoutMs),
    }).catch((error: Error) => {
      throw new PushError("network", error.message, { temporary: true });
    });
    if (!response.ok) throw await refusal(response);
    return (response.status === 204 ? null : await response.json()) as T;
  }

  #pause(attempt: number, retryAfterMs: number | null): Promise<void> {
    const { random, backoffBaseMs } = this.settings;
    const wait = (retryAfterMs ?? 0) + random() * backoffBaseMs * 2 ** attempt;
    return new Promise((resolve) => void setTimeout(resolve, wait));
  }
}

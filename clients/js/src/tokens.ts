import { PushError } from "./errors.js";
import type { UserId } from "./frames.js";

/** `fresh`：手里的刚过期（4004、`token_expired`），必须换新的。 */
export interface TokenRequest {
  fresh: boolean;
}

/**
 * 固定的令牌，或每次要用时都问的函数。它抛出的错误带 `temporary: false` 就不再重连（该登录了），
 * 别的退避后再问。
 */
export type TokenSource = string | ((request: TokenRequest) => string | Promise<string>);

/** 令牌里写的，不验证签名；不是 JWT 则空。 */
export function claimsOf(token: string): Record<string, unknown> {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
  } catch {
    return {};
  }
}

export class Tokens {
  #asking: Promise<string> | null = null;
  constructor(private source: TokenSource) {}

  /** 固定的令牌到期了，不会有新的。 */
  get usedUp(): boolean {
    if (typeof this.source === "function") return false;
    const { exp } = claimsOf(this.source);
    return typeof exp === "number" && exp * 1_000 <= Date.now();
  }

  get renewable(): boolean {
    return typeof this.source === "function";
  }

  /** 同时来要新的，只问一次。 */
  async get(fresh = false): Promise<string> {
    if (typeof this.source === "string") return this.source;
    if (!fresh) return this.source({ fresh });
    const ask = async (source: Exclude<TokenSource, string>) => source({ fresh });
    this.#asking ??= ask(this.source).finally(() => (this.#asking = null));
    return this.#asking;
  }
}

/** 十进制的是整数，别的是一段字：`"5"` 与 5 是一个人。 */
export function personId(value: unknown): UserId {
  const text = String(value ?? "");
  if (/^[1-9]\d{0,15}$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  if (/^[A-Za-z0-9._~@:+-]{1,64}$/.test(text)) return text;
  throw new PushError("no_user_id", "give userId: the token does not name a person");
}

/** 每一种失败：`code` 是 contract 里的错误码，另有 `network`（没有回答）、`no_websocket`、`no_user_id`。 */
export class PushError extends Error {
  readonly code: string;
  /** 原样再来一次有没有可能成功。 */
  readonly temporary: boolean;
  readonly status: number;
  readonly details: unknown;
  readonly retryAfterMs: number | null;

  constructor(
    code: string,
    message = code,
    { temporary = false, status = 0, details = null as unknown, retryAfterMs = null as number | null } = {},
  ) {
    super(message);
    this.name = "PushError";
    this.code = code;
    this.temporary = temporary;
    this.status = status;
    this.details = details;
    this.retryAfterMs = retryAfterMs;
  }
}

/** 一个没有成功的 HTTP 回答；正文不是我们的（代理的）也说得清。 */
export async function refusal(response: Response): Promise<PushError> {
  const { status } = response;
  const body = (await response.json().catch(() => null)) as { error?: Record<string, unknown> } | null;
  const { code, message, temporary, details } = body?.error ?? {};
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return new PushError(String(code ?? `http_${status}`), String(message ?? ""), {
    temporary: Boolean(temporary ?? (status >= 500 || status === 429 || status === 408)),
    status,
    details: details ?? null,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1_000 : null,
  });
}

/** REST 的一次调用；路径相对于页面，所以整个应用可以挂在任何前缀下。 */

export const root = new URL("./", document.baseURI);
const TIMEOUT_MS = 15_000;

/** 人的 id：十进制数是整数，别的是一段字；不是 id 则 null。 */
export function readId(text) {
  const number = /^[1-9]\d{0,15}$/.test(text) ? Number(text) : NaN;
  if (Number.isSafeInteger(number)) return number;
  return /^[A-Za-z0-9._~@:+-]{1,64}$/.test(text) ? text : null;
}

/** `code` 是 contract 里的错误码，另加 `network`：没有得到回答。 */
export class RestError extends Error {
  constructor({ code, message, temporary, details = null }, status = 0, retryAfterS = null) {
    super(message);
    Object.assign(this, { code, temporary, details, status, retryAfterS });
  }
}

/** 返回解码后的 JSON（204 为 null）；不成功则抛 `RestError`。 */
export async function callRest(method, path, { token = null, body, headers = {} } = {}) {
  const response = await send(method, path, token, body, headers);
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  throw refusal(response, answer);
}

async function send(method, path, token, body, headers) {
  const given = { ...headers };
  if (token !== null) given.Authorization = `Bearer ${token}`;
  if (body !== undefined) given["Content-Type"] = "application/json";
  try {
    return await fetch(new URL(`api/v1/${path}`, root), {
      method,
      headers: given,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new RestError({ code: "network", message: "no answer", temporary: true });
  }
}

function refusal(response, answer) {
  const { status } = response;
  const fallback = { code: `http_${status}`, message: "", temporary: status >= 500 };
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  return new RestError(answer?.error ?? fallback, status, retryAfter);
}

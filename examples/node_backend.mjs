// Node 的后端经 REST 发送：API 密钥，幂等键，听 Retry-After。没有依赖（Node 18 起）。
//
//   PUSH_URL=http://127.0.0.1:8000 PUSH_KEY=mpk_… node examples/node_backend.mjs 7 "Order received" "a tent"

import { randomUUID } from "node:crypto";

const { PUSH_URL, PUSH_KEY } = process.env;

/** 发一条；429、503、没有回答时带着同一个键再来，不会发成两条。 */
export async function send(recipientIds, title, content, retries = 5) {
  const key = randomUUID();
  for (let attempt = 0; ; attempt++) {
    let wait = Math.random() * 500 * 2 ** attempt;
    try {
      const answer = await fetch(`${PUSH_URL}/api/v1/messages`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${PUSH_KEY}`,
          "content-type": "application/json",
          "idempotency-key": key,
        },
        body: JSON.stringify({ recipient_ids: recipientIds, title, content }),
        signal: AbortSignal.timeout(10_000),
      });
      const body = await answer.json();
      if (answer.ok) return body;
      if (![429, 503].includes(answer.status) || attempt === retries) throw new Refused(body.error);
      wait += 1_000 * Number(answer.headers.get("retry-after") ?? 0);
    } catch (error) {
      if (error instanceof Refused || attempt === retries) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

class Refused extends Error {
  constructor({ code, message }) {
    super(`${code}: ${message}`);
  }
}

const [recipients, title, content] = process.argv.slice(2);
console.log((await send(recipients.split(",").map(Number), title, content)).message_id);

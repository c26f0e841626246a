import assert from "node:assert/strict";
import { test } from "node:test";

import { world } from "./scripted.js";

test("sending again after an uncertain answer carries the same key", async (t) => {
  const w = await world(t, { backoffBaseMs: 1 });
  const keys: unknown[] = [];
  w.script.rest = (request, body) => {
    keys.push(request.headers["idempotency-key"]);
    assert.deepEqual(body, { recipient_ids: [7], title: "t", content: "c", priority: 3 });
    const busy = { error: { code: "queue_full", message: "", temporary: true } };
    return keys.length < 3 ? { status: 503, body: busy } : { status: 202, body: { message_id: "m" } };
  };
  const accepted = await w.client.rest.send([7], "t", "c", { priority: 3 });
  assert.deepEqual([accepted.message_id, keys.length, new Set(keys).size], ["m", 3, 1]);
});

test("what is refused for good is not tried again", async (t) => {
  const w = await world(t);
  let calls = 0;
  w.script.rest = () => {
    calls += 1;
    return { status: 422, body: { error: { code: "unknown_recipients", message: "no", temporary: false, details: [9] } } };
  };
  await assert.rejects(w.client.rest.send([9], "t", "c"), { code: "unknown_recipients", status: 422, details: [9] });
  assert.equal(calls, 1);
});

test("an expired token is replaced once, then the refusal stands", async (t) => {
  const asked: boolean[] = [];
  const w = await world(t, { token: ({ fresh }) => (asked.push(fresh), `t${fresh}`) });
  const expired = { status: 401, body: { error: { code: "token_expired", message: "", temporary: false } } };
  w.script.rest = ({ headers }) => (headers.authorization === "Bearer ttrue" ? { status: 200, body: { items: [] } } : expired);
  assert.deepEqual(await w.client.rest.inbox({ unread: true, cursor: null }), { items: [] });
  assert.deepEqual(asked, [false, true]);
  w.script.rest = () => expired;
  await assert.rejects(w.client.rest.inbox(), { code: "token_expired" });
});

test("each call is the one of the contract", async (t) => {
  const w = await world(t);
  const seen: string[] = [];
  w.script.rest = ({ method, url }, body) => {
    seen.push(`${method} ${url} ${JSON.stringify(body)}`);
    return { status: 200, body: {} };
  };
  const { rest } = w.client;
  await rest.inbox({ unread: true, limit: 5 });
  await rest.message("M");
  await rest.markRead(["M"]);
  await rest.markRead({ upto: "M" });
  await rest.delivery("M");
  await rest.presence("a@b");
  await rest.inbox({ archived: false, message_type: "system", min_priority: 5, q: "会" });
  await rest.sent({ limit: 2 });
  await rest.counts();
  await rest.setState(["M"], { read: false, archived: true });
  await rest.archive(["M"]);
  await rest.archive(["M"], false);
  await rest.withdraw("M");
  assert.deepEqual(seen, [
    "GET /api/v1/messages?unread=true&limit=5 null",
    "GET /api/v1/messages/M null",
    'POST /api/v1/messages/read {"message_ids":["M"]}',
    'POST /api/v1/messages/read {"upto_message_id":"M"}',
    "GET /api/v1/messages/M/delivery null",
    "GET /api/v1/presence/users/a%40b null",
    "GET /api/v1/messages?archived=false&message_type=system&min_priority=5&q=%E4%BC%9A null",
    "GET /api/v1/messages/sent?limit=2 null",
    "GET /api/v1/messages/counts null",
    'POST /api/v1/messages/state {"message_ids":["M"],"read":false,"archived":true}',
    'POST /api/v1/messages/state {"message_ids":["M"],"archived":true}',
    'POST /api/v1/messages/state {"message_ids":["M"],"archived":false}',
    "DELETE /api/v1/messages/M null",
  ]);
});

test("204 is null, no answer is `network`", async (t) => {
  const w = await world(t);
  w.script.rest = () => ({ status: 204 });
  assert.equal(await w.client.rest.call("POST", "auth/logout"), null);
  w.script.stop();
  await assert.rejects(w.client.rest.call("POST", "auth/logout"), { code: "network", temporary: true });
});

test("an archive that was not answered is asked again", async (t) => {
  const w = await world(t, { backoffBaseMs: 1 });
  let calls = 0;
  const busy = { error: { code: "database_unavailable", message: "", temporary: true } };
  const done = { unread_count: 2, version: 5, unknown: [] };
  w.script.rest = () => (++calls < 3 ? { status: 503, body: busy } : { status: 200, body: done });
  assert.deepEqual(await w.client.rest.archive(["M"]), done);
  assert.equal(calls, 3);
});

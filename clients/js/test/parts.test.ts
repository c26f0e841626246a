import assert from "node:assert/strict";
import { test } from "node:test";

import { refusal } from "../src/errors.js";
import { readState } from "../src/store.js";
import { claimsOf, personId, Tokens } from "../src/tokens.js";
import { EventReader } from "../src/transport.js";

const jwt = (claims: object) =>
  `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.signature`;

test("events are read across any border of chunks, comments are nothing", () => {
  const text = ': hi\r\ndata: {"a":\r\ndata: 1}\r\nid: e:4\r\n\r\nevent: close\ndata:x\n\n\n: beat\n\n';
  for (let size = 1; size <= text.length; size++) {
    const reader = new EventReader();
    const found = [];
    for (let at = 0; at < text.length; at += size) found.push(...reader.push(text.slice(at, at + size)));
    assert.deepEqual(found, [
      { event: "", data: '{"a":\n1}' },
      { event: "close", data: "x" },
    ]);
  }
});

test("a state that can not be read is none", () => {
  const sound = { device_id: "d", epoch: null, floor: 0, ids: [], unconfirmed: [] };
  assert.deepEqual(readState(JSON.stringify(sound)), sound);
  for (const text of [null, "", "{", "7", "null", "{}", '{"device_id":"d","floor":0,"ids":1}']) {
    assert.equal(readState(text), null);
  }
});

test("a person is an integer or a word, never something else", () => {
  assert.equal(personId("42"), 42);
  assert.equal(personId("9007199254740993"), "9007199254740993");
  assert.equal(personId("a@b"), "a@b");
  for (const bad of [undefined, "", "a/b", "x".repeat(65)]) {
    assert.throws(() => personId(bad), { code: "no_user_id" });
  }
});

test("claims are read without checking, also when they are not ASCII", () => {
  assert.deepEqual(claimsOf(jwt({ sub: "7", name: "小明" })), { sub: "7", name: "小明" });
  assert.deepEqual(claimsOf("mpk_1_x"), {});
});

test("a fixed token is used up when its time is over, a callback never", () => {
  assert.ok(new Tokens(jwt({ exp: 1 })).usedUp);
  assert.ok(!new Tokens(jwt({ exp: 9e9 })).usedUp);
  assert.ok(!new Tokens(() => jwt({ exp: 1 })).usedUp);
});

test("who asks for a fresh token while one is fetched waits for that one", async () => {
  let asked = 0;
  const tokens = new Tokens(async ({ fresh }) => `${fresh}${++asked}`);
  assert.deepEqual(await Promise.all([tokens.get(true), tokens.get(true)]), ["true1", "true1"]);
  assert.equal(await tokens.get(true), "true2");
  assert.equal(await tokens.get(), "false3");
});

test("a refusal carries the code, a proxy's page is temporary when its status is", async () => {
  const body = { error: { code: "rate_limited", message: "slow", temporary: true, details: 1 } };
  const headers = { "Retry-After": "3" };
  const ours = await refusal(new Response(JSON.stringify(body), { status: 429, headers }));
  assert.deepEqual([ours.code, ours.temporary, ours.retryAfterMs], ["rate_limited", true, 3_000]);
  const proxy = await refusal(new Response("<html>", { status: 502 }));
  assert.deepEqual([proxy.code, proxy.temporary, proxy.retryAfterMs], ["http_502", true, null]);
});

import assert from "node:assert/strict";
import { test } from "node:test";

import { PushClient } from "../src/client.js";
import { PushError } from "../src/errors.js";
import { again, id, Mailbox, message, reached, take, turn, welcomed, world } from "./scripted.js";

const jwt = (claims: object) => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;

for (const code of [1000, 1001, 1011, 4000, 4001, 4003, 4005, 4006, 4007, 4321]) {
  test(`close code ${code}: again, with the position`, async (t) => {
    const w = await world(t);
    w.client.start();
    (await welcomed(w, { seq: 4 })).close(code, "why");
    const next = await again(w, { seq: 4 });
    assert.equal(next.query.get("last_seq"), "4");
  });
}

for (const [code, name] of [
  [4500, "invalid_token"],
  [4501, "forbidden"],
  [4502, "revoked"],
  [4503, "kicked"],
  [4504, "protocol_violation"],
  [4505, "replaced"],
  [4999, "from_the_future"],
] as const) {
  test(`close code ${code}: never again, until start()`, async (t) => {
    const w = await world(t);
    w.client.start();
    (await welcomed(w)).close(code, name);
    await reached(w.client, "disconnected");
    const { final, reason, retryAt } = w.client.state;
    assert.deepEqual([final, w.client.state.code, reason, retryAt], [true, code, name, null]);
    await assert.rejects(w.client.connected(), { code: name });
    w.client.retryNow();
    w.clock.advance(3_600_000);
    await turn();
    assert.equal(w.script.peers.size, 0);
    w.client.start();
    await welcomed(w);
  });
}

test("4004 asks for a fresh token, each time after a longer wait", async (t) => {
  const asked: boolean[] = [];
  const w = await world(t, { token: ({ fresh }) => (asked.push(fresh), `t${asked.length}`) });
  w.client.start();
  for (const attempt of [1, 2, 3, 4]) {
    const peer = await w.script.peers.next();
    assert.equal(peer.token, `t${attempt}`);
    peer.close(4004, "token_expired");
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt! - w.clock.now(), 500 * 2 ** (attempt - 1));
    w.client.retryNow();
  }
  await welcomed(w);
  assert.deepEqual(asked, [false, true, true, true, true]);
});

test("4004 and a fixed token: over when it has expired, else a matter of clocks", async (t) => {
  const expired = await world(t, { token: jwt({ sub: 1, exp: 1 }) });
  expired.client.start();
  (await expired.script.peers.next()).close(4004, "token_expired");
  await reached(expired.client, "disconnected");
  assert.equal(expired.client.state.final, true);
  const early = await world(t, { token: jwt({ sub: 1, exp: 9e9 }) });
  early.client.start();
  (await early.script.peers.next()).close(4004, "token_expired");
  await again(early);
});

test("LESSON 1: full jitter from the first retry, doubling up to the cap", async (t) => {
  const draws = [0.1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5];
  const expected = [100, 1_800, 2_000, 4_000, 8_000, 15_000, 15_000];
  const w = await world(t, { transport: "websocket", random: () => draws.shift() ?? 0.5 });
  w.script.refuse.websocket = Array(expected.length).fill(503);
  w.client.start();
  for (const delay of expected) {
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt! - w.clock.now(), delay);
    w.clock.advance(delay);
    await reached(w.client, "connecting");
  }
  await welcomed(w);
});

test("a connection that lived starts the back-off anew, one that was cut at once does not", async (t) => {
  const w = await world(t);
  w.client.start();
  for (const [lived, delay] of [[0, 500], [0, 1_000], [10_000, 500]] as const) {
    const peer = await welcomed(w);
    w.clock.advance(lived);
    peer.drop();
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt! - w.clock.now(), delay);
    w.client.retryNow();
  }
});

for (const code of [4005, 4006]) {
  test(`${code} is not answered with the shortest wait`, async (t) => {
    const w = await world(t);
    w.client.start();
    (await w.script.peers.next()).close(code, "many");
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt! - w.clock.now(), 4_000);
  });
}

test("a server that goes tells the window; a window of nothing is none", async (t) => {
  const w = await world(t);
  w.client.start();
  for (const [window, delay] of [[30_000, 15_000], [0, 500]] as const) {
    const peer = await welcomed(w);
    peer.send({ type: "notice", code: "draining", reconnect_after_ms: window });
    peer.close(4000, "server_draining");
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt! - w.clock.now(), delay);
    w.client.retryNow();
  }
});

test("a half-open connection is found by the heartbeat, and left", async (t) => {
  const w = await world(t);
  w.client.start();
  const peer = await welcomed(w, { seq: 2 });
  w.clock.advance(30_000);
  const { connection_id } = await peer.receive("heartbeat");
  assert.equal(connection_id, "c");
  w.clock.advance(9_999);
  assert.equal(w.client.state.name, "connected");
  w.clock.advance(1);
  assert.equal(w.client.state.reason, "server_silent");
  assert.equal((await again(w)).query.get("last_seq"), "2");
});

test("any frame shows that the server lives", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  w.clock.advance(30_000);
  await peer.receive("heartbeat");
  w.clock.advance(5_000);
  peer.send(message(1));
  await w.got.next();
  w.clock.advance(5_000);
  assert.equal(w.client.state.name, "connected");
});

test("after a sleep a dead socket is found within the probe, not within a heartbeat", async (t) => {
  const w = await world(t);
  w.client.start();
  const peer = await welcomed(w);
  w.clock.asleepMs += 600_000;
  w.clock.advance(30_000); // 醒来：迟到的心跳定时器
  await peer.receive("heartbeat");
  w.clock.advance(3_000);
  assert.equal(w.client.state.reason, "server_silent");
  await again(w);
});

test("a probe that waits as long as a heartbeat is a probe all the same", async (t) => {
  const w = await world(t, { probeAfterMs: 10_000 });
  take(w);
  w.client.start();
  const peer = await welcomed(w, { heartbeat_interval_s: 5 });
  w.clock.advance(5_000);
  await peer.receive("heartbeat"); // 等到 15 秒
  w.clock.advance(3_000);
  peer.send(message(1)); // 等到了
  await w.got.next();
  w.clock.asleepMs += 6_000;
  w.clock.advance(2_000); // 醒来的那一次，等到 20 秒
  await peer.receive("heartbeat");
  w.clock.advance(9_999);
  assert.equal(w.client.state.name, "connected");
  w.clock.advance(1);
  assert.equal(w.client.state.reason, "server_silent");
});

test("no welcome within the limit: again", async (t) => {
  const w = await world(t);
  w.client.start();
  const peer = await w.script.peers.next();
  peer.send(message(1)); // 第一帧必须是 welcome
  await turn();
  w.clock.advance(10_000);
  assert.equal(w.client.state.reason, "open_timeout");
  await again(w);
});

test("a token about to expire is replaced in band, asked for once", async (t) => {
  let asked = 0;
  const w = await world(t, { token: ({ fresh }) => `t${fresh ? ++asked : 0}` });
  w.client.start();
  const peer = await welcomed(w);
  const warning = { type: "token_expiring", token_expires_at: 1 };
  peer.send(warning, warning);
  assert.equal((await peer.receive("refresh_token")).token, "t1");
  w.clock.advance(10_000);
  peer.send(warning);
  assert.equal((await peer.receive("refresh_token")).token, "t2");
});

test("a warning that never came is not waited for; the server's clock counts", async (t) => {
  const w = await world(t, { token: ({ fresh }) => `t${fresh}` });
  w.client.start();
  const peer = await welcomed(w, { server_time: 5_000_000, token_expires_at: 5_050_000 });
  w.clock.advance(19_999);
  await turn();
  assert.equal(peer.frames.size, 0);
  w.clock.advance(1);
  assert.equal((await peer.receive("refresh_token")).token, "ttrue");
  const refreshed = new Mailbox<unknown>();
  w.client.on("token_refreshed", refreshed.put);
  peer.send({ type: "token_refreshed", token_expires_at: 5_060_000 });
  await refreshed.next();
  w.clock.advance(10_000);
  await peer.receive("refresh_token");
});

test("a token callback that fails for now is asked again, one that says no is the end", async (t) => {
  let failure: Error | null = new Error("offline");
  const w = await world(t, {
    token: () => {
      if (failure) throw failure;
      return "t";
    },
  });
  w.client.start();
  await reached(w.client, "disconnected");
  assert.equal(w.client.state.reason, "token_unavailable");
  failure = null;
  (await again(w)).drop();
  await reached(w.client, "disconnected");
  failure = new PushError("signed_out");
  w.client.retryNow();
  await turn();
  assert.deepEqual([w.client.state.final, w.client.state.reason], [true, "signed_out"]);
});

test("status and watched people are said on every connection", async (t) => {
  const w = await world(t);
  w.client.status("away", "desk");
  w.client.watch(Array.from({ length: 150 }, (_, index) => index + 1));
  w.client.unwatch([150]);
  w.client.start();
  for (let round = 0; round < 2; round++) {
    const peer = round ? await again(w) : await welcomed(w);
    assert.deepEqual(await peer.receive("status"), { type: "status", status: "away", device_info: "desk" });
    assert.equal((await peer.receive("watch")).user_ids.length, 100);
    assert.equal((await peer.receive("watch")).user_ids.length, 49);
    peer.drop();
  }
});

test("nothing happens after stop(), and start() begins again", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  await w.client.stop();
  await peer.gone.next();
  assert.equal(w.client.say({ type: "heartbeat", timestamp: 1 }), false);
  w.client.start();
  (await welcomed(w)).send(message(1));
  assert.equal(await w.got.next(), id(1));
});

test("without a WebSocket: a clear error, or SSE", async (t) => {
  const options = { url: "http://127.0.0.1:1", token: "t", userId: 1 };
  if (globalThis.WebSocket === undefined) {
    assert.throws(() => new PushClient({ ...options, transport: "websocket" }), { code: "no_websocket" });
    const w = await world(t, { WebSocket: undefined });
    w.client.start();
    assert.equal((await welcomed(w)).kind, "sse");
  }
});

test("who it is must be known where a position is kept", () => {
  const options = { url: "http://127.0.0.1:1", token: () => "t" };
  assert.throws(() => new PushClient({ ...options, store: "local" }), { code: "no_user_id" });
  assert.throws(() => new PushClient({ ...options, shared: true }), { code: "no_user_id" });
});

test("asleep for ten minutes, the token expired, the server replaced: everything once, no refused token in a loop", async (t) => {
  let held = "old";
  const asked: boolean[] = [];
  const token = ({ fresh }: { fresh: boolean }) => (asked.push(fresh), fresh ? (held = "new") : held);
  const w = await world(t, { token });
  take(w);
  w.client.start();
  const before = await welcomed(w, { seq: 1, server_time: 5_000_000, token_expires_at: 5_120_000 });
  before.send(message(1));
  assert.equal(await w.got.next(), id(1));
  assert.equal(before.token, "old");

  w.clock.asleepMs += 600_000; // 墙上的钟走了十分钟，定时器一个也没有响
  before.drop(); // 这期间换了一台服务器
  await reached(w.client, "disconnected");
  const refused: string[] = [];
  let peer = null;
  while (peer === null) {
    w.client.retryNow();
    const next = await w.script.peers.next("a connection after waking");
    if (next.token === "old") {
      refused.push(next.token);
      assert.ok(refused.length < 3, "the expired token again and again");
      next.close(4004, "token_expired");
      await reached(w.client, "disconnected");
    } else peer = next;
  }
  assert.ok(refused.length <= 1, `${refused.length} refusals`);
  assert.equal(peer.query.get("last_seq"), "1");
  peer.welcome({ seq: 4, resumed: true, server_time: 5_600_000, token_expires_at: 6_600_000 });
  const missed = [1, 2, 3, 4].map((seq) => message(seq)); // 已应用过的又来一遍
  peer.send({ type: "batch", messages: missed }, message(4), message(5));
  for (const seq of [2, 3, 4, 5]) assert.equal(await w.got.next(), id(seq));
  await turn();
  assert.equal(w.got.size, 0);
  assert.equal(asked.filter(Boolean).length, 1);
});

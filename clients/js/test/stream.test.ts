import assert from "node:assert/strict";
import { test } from "node:test";

import { again, id, message, type Peer, reached, take, turn, welcomed, type World, world } from "./scripted.js";

test("two WebSockets that fail in a row: SSE by itself; after five minutes WebSocket again", async (t) => {
  const w = await world(t);
  take(w);
  w.script.refuse.websocket = [404, 404];
  w.client.start();
  await reached(w.client, "disconnected");
  w.client.retryNow();
  await reached(w.client, "connecting");
  await reached(w.client, "disconnected");
  w.client.retryNow();
  const stream = await welcomed(w, { seq: 1 });
  assert.deepEqual([stream.kind, w.client.state.transport, stream.token], ["sse", "sse", "t"]);
  stream.send(message(2));
  assert.equal(await w.got.next(), id(2));
  await turn();
  w.clock.advance(1);
  assert.deepEqual(await w.script.acks.next(), [id(2)]);
  w.script.refuse.websocket = [404];
  for (let quiet = 0; quiet < 10; quiet++) {
    stream.raw("{}"); // 服务器还活着
    await w.errors.next();
    w.clock.advance(30_000);
  }
  await reached(w.client, "connecting");
  const back = await again(w); // 一次不成就回来
  assert.deepEqual([back.kind, back.query.get("last_seq")], ["sse", "2"]);
  for (let quiet = 0; quiet < 10; quiet++) {
    back.raw("{}");
    await w.errors.next();
    w.clock.advance(30_000);
  }
  const socket = await welcomed(w, { seq: 2 });
  assert.deepEqual([socket.kind, w.client.state.transport], ["websocket", "websocket"]);
});

/** 从此刻到 SSE 连上，退避一共多少毫秒；抖动取最长的。升级都被拒绝。 */
async function backOffs(w: World, lost: () => void): Promise<number> {
  let waited = 0;
  w.script.refuse.websocket = Array(9).fill(403);
  const off = w.client.on("state", ({ retryAt }) => {
    if (retryAt === null) return;
    const ms = retryAt - w.clock.now();
    waited += ms;
    setImmediate(() => w.clock.advance(ms));
  });
  lost();
  const stream = await welcomed(w);
  off();
  assert.equal(stream.kind, "sse");
  w.script.refuse.websocket = [];
  return waited;
}

/** 五分钟过去，SSE 一直活着；WebSocket 连上了。 */
async function backToSocket(w: World): Promise<Peer> {
  const next = w.script.peers.next("a WebSocket");
  for (let minute = 0; minute < 5; minute++) w.clock.advance(60_000);
  const socket = await next;
  socket.welcome();
  await reached(w.client, "connected");
  assert.equal(socket.kind, "websocket");
  return socket;
}

test("WebSocket refused: by SSE within 10 s, at the start, later, and each time the way changes", async (t) => {
  const w = await world(t, { random: () => 1, silentAfterMs: 600_000, deadAfterMs: 600_000 });
  assert.ok((await backOffs(w, () => w.client.start())) <= 1_000);
  for (let change = 0; change < 8; change++) {
    const socket = await backToSocket(w);
    const livedMs = change % 2 ? 60_000 : 0; // 站稳了才断，或随即就断
    w.clock.advance(livedMs);
    assert.ok((await backOffs(w, socket.drop)) <= (livedMs ? 3_000 : 6_000), `change ${change}`);
  }
});

for (const how of ["the port is closed", "a proxy says 502"]) {
  test(`a server that restarts (${how}) is no reason to leave WebSocket`, async (t) => {
    const w = await world(t);
    if (how === "a proxy says 502") [w.script.refuse.websocket, w.script.refuse.sse] = [[502, 502], [502]];
    else await w.script.leave();
    w.client.start();
    await reached(w.client, "disconnected");
    assert.ok(w.client.state.retryAt! > w.clock.now());
    w.client.retryNow();
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.retryAt, w.clock.now()); // SSE 通不通，现在就看
    w.clock.advance(0);
    await reached(w.client, "disconnected");
    assert.ok(w.client.state.retryAt! > w.clock.now());
    await w.script.comeBack();
    w.client.retryNow();
    assert.equal((await welcomed(w)).kind, "websocket");
  });
}

test("a WebSocket that may not even be made is one that fails", async (t) => {
  class Forbidden {
    constructor() {
      throw new Error("the policy of this page says no");
    }
  }
  const w = await world(t, { WebSocket: Forbidden as never });
  w.client.start();
  for (let attempt = 0; attempt < 2; attempt++) {
    await reached(w.client, "disconnected");
    assert.equal(w.client.state.reason, "not_opened");
    w.client.retryNow();
  }
  assert.equal((await welcomed(w)).kind, "sse");
});

test("SSE that fails as well: it is the server, WebSocket comes first again", async (t) => {
  const w = await world(t);
  w.script.refuse.websocket = [502, 502];
  w.script.refuse.sse = [502];
  w.client.start();
  for (let attempt = 0; attempt < 3; attempt++) {
    await reached(w.client, "disconnected");
    w.client.retryNow();
    await reached(w.client, "connecting");
  }
  assert.equal((await welcomed(w)).kind, "websocket");
});

test("a server that closes with a code is there: no reason to leave WebSocket", async (t) => {
  const w = await world(t);
  w.client.start();
  for (let attempt = 0; attempt < 3; attempt++) {
    (await w.script.peers.next()).close(4007, "node_unhealthy");
    await reached(w.client, "disconnected");
    w.client.retryNow();
  }
  assert.equal((await welcomed(w)).kind, "websocket");
});

test("the close event means what the close code means", async (t) => {
  const asked: boolean[] = [];
  const w = await world(t, { transport: "sse", token: ({ fresh }) => (asked.push(fresh), "t") });
  w.client.start();
  (await welcomed(w, { seq: 3 })).close(4004, "token_expired");
  const next = await again(w, { seq: 3 });
  assert.equal(next.query.get("last_seq"), "3");
  assert.deepEqual(asked, [false, true]);
  next.close(4502, "revoked");
  await reached(w.client, "disconnected");
  assert.deepEqual([w.client.state.final, w.client.state.code], [true, 4502]);
});

for (const [status, code, closed] of [
  [401, "invalid_token", 4500],
  [401, "revoked", 4502],
  [403, "forbidden", 4501],
] as const) {
  test(`SSE refused with ${code} is the end`, async (t) => {
    const w = await world(t, { transport: "sse" });
    [w.script.refuse.sse, w.script.refuse.body] = [[status], { error: { code } }];
    w.client.start();
    await reached(w.client, "disconnected");
    assert.deepEqual([w.client.state.final, w.client.state.code, w.client.state.reason], [true, closed, code]);
  });
}

test("Retry-After is obeyed, and jittered", async (t) => {
  const w = await world(t, { transport: "sse" });
  Object.assign(w.script.refuse, { sse: [429], headers: { "retry-after": "7" } });
  w.client.start();
  await reached(w.client, "disconnected");
  assert.equal(w.client.state.retryAt! - w.clock.now(), 7_500);
});

test("a silent stream is dead, one with comments lives", async (t) => {
  const w = await world(t, { transport: "sse" });
  w.client.start();
  const stream = await welcomed(w);
  w.clock.advance(44_999);
  assert.equal(w.client.state.name, "connected");
  stream.raw("{}");
  await w.errors.next();
  w.clock.advance(44_999);
  assert.equal(w.client.state.name, "connected");
  w.clock.advance(1);
  assert.equal(w.client.state.reason, "server_silent");
});

test("an answer that is no stream is not waited for", async (t) => {
  const w = await world(t, {
    transport: "sse",
    fetch: async () => new Response("<html>", { headers: { "content-type": "text/html" } }),
  });
  w.client.start();
  await reached(w.client, "disconnected");
  assert.deepEqual([w.client.state.final, w.client.state.reason], [false, "not_a_stream"]);
});

/** 少见的次序：处理到一半又来、存得慢、欢迎之前、换了代、停下之后。 */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Welcome } from "../src/frames.js";
import { Ledger } from "../src/ledger.js";
import { id, message, type Peer, reached, take, turn, welcomed, world, type World } from "./scripted.js";

/** 之前说的都到了：一来一回。 */
async function roundTrip(w: World, peer: Peer): Promise<string[]> {
  w.client.say({ type: "unwatch", user_ids: [1] });
  const before: string[] = [];
  for (;;) {
    const { type } = await peer.frames.next("the marker");
    if (type === "unwatch") return before;
    before.push(type);
  }
}

test("a copy that comes while the first is being handled is not handled again", async (t) => {
  const w = await world(t);
  let finish = () => {};
  w.client.on("message", async ({ message_id }) => {
    w.got.put(message_id);
    await new Promise<void>((resolve) => (finish = resolve));
  });
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  await w.got.next();
  const told = new Promise((resolve) => w.client.on("read_sync", resolve));
  const marker = { type: "read_sync", message_ids: [], unread_count: 0 };
  peer.send(message(1, { attempt: 1 }), message(2), marker);
  await told;
  finish();
  assert.equal(await w.got.next(), id(2));
});

test("the position is stored before the ack goes out", async (t) => {
  let stored = () => {};
  const save = () => new Promise<void>((resolve) => (stored = resolve));
  const w = await world(t, { store: { load: () => null, save } });
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  await w.got.next();
  await turn();
  w.clock.advance(1);
  await turn();
  assert.deepEqual(await roundTrip(w, peer), []);
  stored();
  await turn();
  stored();
  assert.deepEqual(await peer.acked(), [id(1)]);
});

test("a busy server is asked again after one, two, four seconds", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  await w.got.next();
  await turn();
  w.clock.advance(1);
  for (const wait of [1_000, 2_000, 4_000]) {
    const { request_id } = await peer.receive("ack");
    peer.send({ type: "error", code: "busy", message: "", temporary: true, request_id });
    await w.errors.next();
    w.clock.advance(wait - 1);
    await turn();
    assert.deepEqual(await roundTrip(w, peer), []);
    w.clock.advance(1);
  }
});

test("closed by the server itself before the welcome: WebSocket all the same", async (t) => {
  const w = await world(t);
  w.client.start();
  for (let attempt = 0; attempt < 4; attempt++) {
    const peer = await w.script.peers.next();
    assert.equal(peer.kind, "websocket");
    peer.close(4007, "node_unhealthy");
    await reached(w.client, "disconnected");
    w.client.retryNow();
  }
});

test("what comes before the welcome is not taken", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await w.script.peers.next();
  peer.send(message(1));
  peer.welcome();
  peer.send(message(2));
  assert.equal(await w.got.next(), id(2));
});

test("what is held from another epoch means nothing in the new one", () => {
  const welcome = { type: "welcome", epoch: "e", seq: 9, resumed: false, pending: 0 } as Welcome;
  const ledger = new Ledger();
  ledger.opened(welcome, []);
  ledger.opened({ ...welcome, epoch: "new", seq: 2, pending: 1 }, [1]);
  ledger.received(2);
  ledger.applied(2, "new");
  ledger.applied(3, "e");
  assert.deepEqual(ledger.claim, { epoch: "new", last_seq: 2 });
});

test("what waited for its turn when the client stopped is not handed over", async (t) => {
  const w = await world(t);
  const told = new Promise((resolve) => w.client.on("read_sync", resolve));
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1), { type: "read_sync", message_ids: [], unread_count: 0 });
  await told;
  await w.client.stop();
  take(w);
  await turn();
  assert.equal(w.got.size, 0);
});

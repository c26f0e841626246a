import assert from "node:assert/strict";
import { test } from "node:test";

import type { Message } from "../src/intake.js";
import { memoryStore } from "../src/store.js";
import { again, clientOf, id, Mailbox, message, take, turn, welcomed, world } from "./scripted.js";

test("a message is acked after its handler, a second copy is acked and not handled", async (t) => {
  const w = await world(t);
  let finish = () => {};
  w.client.on("message", async ({ message_id }) => {
    w.got.put(message_id);
    await new Promise<void>((resolve) => (finish = resolve));
  });
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  assert.equal(await w.got.next(), id(1));
  w.clock.advance(1);
  await turn();
  assert.equal(peer.frames.size, 0, "not before the handler is done");
  finish();
  await turn();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(1)]);
  peer.send(message(1, { attempt: 1 }), message(2));
  assert.equal(await w.got.next(), id(2));
  finish();
  await turn();
  w.clock.advance(1);
  assert.deepEqual(new Set(await peer.acked()), new Set([id(1), id(2)]));
});

test("what a handler could not do is not acked, and handled when it comes again", async (t) => {
  const w = await world(t);
  let fails = true;
  w.client.on("message", ({ message_id }) => {
    if (fails) throw new Error("no room");
    w.got.put(message_id);
  });
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  assert.equal((await w.errors.next()).message, "no room");
  fails = false;
  peer.send(message(1, { attempt: 1 }));
  assert.equal(await w.got.next(), id(1));
  await turn();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(1)]);
});

test("a withdrawal is told and acked, alone or in a batch; its message is not handed over again", async (t) => {
  const w = await world(t);
  const told = new Mailbox<string>();
  w.client.on("message", ({ message_id }) => w.got.put(message_id));
  w.client.on("withdrawn", (frame) => told.put(frame.message_id));
  w.client.start();
  const peer = await welcomed(w);
  const withdrawal = (seq: number, of: number) => ({
    ...message(of),
    ...{ type: "withdrawn", seq, withdrawn_at: 5, title: "", content: "" },
  });
  peer.send(message(1));
  assert.equal(await w.got.next(), id(1));
  peer.send(withdrawal(2, 1), { type: "batch", messages: [withdrawal(3, 9), message(4)] });
  assert.deepEqual([await told.next(), await told.next()], [id(1), id(9)]);
  assert.equal(await w.got.next(), id(4));
  await turn();
  w.clock.advance(1);
  assert.deepEqual((await peer.acked()).sort(), [id(1), id(4), id(9)].sort());
  peer.drop();
  const next = await again(w);
  assert.equal(next.query.get("last_seq"), "4");
  next.send(message(1, { seq: 1 }));
  await turn();
  assert.equal(w.got.size, 0);
});

test("by hand: only ack() acks, once; the position waits for it", async (t) => {
  const w = await world(t, { ack: "manual" });
  const got = new Mailbox<Message>();
  w.client.on("message", got.put);
  w.client.start();
  const peer = await welcomed(w);
  peer.send({ type: "batch", messages: [message(1), message(2)] });
  const [first, second] = [await got.next(), await got.next()];
  second.ack();
  second.ack();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(2)]);
  peer.drop();
  const next = await again(w);
  assert.equal(next.query.get("last_seq"), "0");
  next.send(message(1), message(2));
  w.client.ack(first);
  await turn();
  w.clock.advance(1);
  assert.ok((await next.acked()).includes(id(1)));
  assert.equal(got.size, 0, "what is in the application's hands is not handed over again");
});

test("on request: ack() inside the handler goes out before it returns, and only once", async (t) => {
  const w = await world(t);
  let finish = () => {};
  w.client.on("message", async (one) => {
    one.ack();
    w.got.put(one.message_id);
    await new Promise<void>((resolve) => (finish = resolve));
  });
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  await w.got.next();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(1)]);
  finish();
  peer.send(message(2));
  await w.got.next();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(2)]);
});

test("broadcasts are acked by id and move no position; a passing message is not acked", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  const passing = { type: "new_message", message_id: "build-1", title: "t", content: "" };
  peer.send(passing, message(null, { broadcast_id: 9, message_id: id(9) }));
  assert.deepEqual([await w.got.next(), await w.got.next()], ["build-1", id(9)]);
  await turn();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(9)]);
  peer.drop();
  assert.equal((await again(w)).query.get("last_seq"), "0");
});

test("resume: the position, the device and the ack that was under way", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  const device = peer.query.get("device_id");
  assert.equal(peer.query.get("last_seq"), null);
  peer.send(message(1), message(2));
  await w.got.next();
  await w.got.next();
  await turn();
  w.clock.advance(1);
  await peer.receive("ack"); // 没有认下
  peer.drop();
  const next = await again(w, { seq: 2 });
  assert.deepEqual(
    [next.query.get("epoch"), next.query.get("last_seq"), next.query.get("device_id")],
    ["e", "2", device],
  );
  w.clock.advance(1);
  assert.deepEqual(await next.acked(), [id(1), id(2)]);
});

test("gap and resync are told, and the old position is dropped", async (t) => {
  const w = await world(t);
  const told = new Mailbox<string>();
  w.client.on("gap", ({ reason }) => told.put(reason));
  w.client.on("resync", ({ reason }) => told.put(reason));
  w.client.start();
  const peer = await welcomed(w);
  peer.send({ type: "gap", from_seq: 1, to_seq: 4, count: 4, reason: "evicted" });
  assert.equal(await told.next(), "evicted");
  peer.drop();
  const next = await again(w, { seq: 4 });
  assert.equal(next.query.get("last_seq"), "4");
  next.drop();
  const last = await again(w, { epoch: "f", resumed: false, seq: 1, pending: 1 });
  last.send({ type: "resync", reason: "epoch_changed", epoch: "f", seq: 1 });
  assert.equal(await told.next(), "epoch_changed");
  last.drop();
  assert.equal((await again(w)).query.get("last_seq"), null, "its backlog had not come");
});

test("a hole that outlives a heartbeat is fetched by reconnecting", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1), message(3));
  await w.got.next();
  await w.got.next();
  const beats = new Mailbox<unknown>();
  w.client.on("heartbeat_ack", beats.put);
  for (let beat = 0; beat < 2; beat++) {
    assert.equal(w.client.state.name, "connected");
    w.clock.advance(30_000);
    const { timestamp } = await peer.receive("heartbeat");
    peer.send({ type: "heartbeat_ack", timestamp, server_time: 0, seq: 3 });
    await beats.next();
  }
  await peer.gone.next();
  const next = await again(w, { seq: 3 });
  assert.equal(next.query.get("last_seq"), "1");
  next.send({ type: "batch", messages: [message(2), message(3)] });
  assert.equal(await w.got.next(), id(2));
});

test("a store carries position, device and ids over to the next process", async (t) => {
  const store = memoryStore();
  const w = await world(t, { store });
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1), message(3));
  await w.got.next();
  await w.got.next();
  await turn();
  w.clock.advance(1);
  await peer.acked();
  await w.client.stop();
  const next = { script: w.script, ...clientOf(t, w.script, { store }) };
  take(next);
  next.client.start();
  const second = await welcomed(next, { seq: 3 });
  assert.equal(second.query.get("last_seq"), "1");
  assert.equal(second.query.get("device_id"), peer.query.get("device_id"));
  second.send(message(2), message(3));
  assert.equal(await next.got.next(), id(2));
  await turn();
  next.clock.advance(1);
  const ids = [...(await second.acked())];
  if (!ids.includes(id(2))) ids.push(...(await second.acked()));
  assert.ok(ids.includes(id(2)) && next.got.size === 0);
});

test("a store that fails is told, and nothing stops", async (t) => {
  const fails = () => {
    throw new Error("full");
  };
  const w = await world(t, { store: { load: fails, save: fails } });
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  assert.equal(await w.got.next(), id(1));
  await turn();
  w.clock.advance(1);
  assert.deepEqual(await peer.acked(), [id(1)]);
  assert.equal((await w.errors.next()).message, "full");
});

test("garbage is told and ignored", async (t) => {
  const w = await world(t);
  take(w);
  w.client.start();
  const peer = await welcomed(w);
  peer.raw(Buffer.from([1, 2, 3]));
  for (const text of ["{", "7", "null", "[]", "{}"]) peer.raw(text);
  for (let count = 0; count < 6; count++) assert.equal((await w.errors.next()).code, "bad_frame");
  peer.send({ type: "from_the_future" }, { type: "new_message" }, { type: "batch" });
  peer.send({ type: "batch", messages: [null, 7, message(1)] });
  assert.equal(await w.got.next(), id(1));
  assert.equal(w.client.state.name, "connected");
});

test("acks that the server can not take now are sent again, later and later", async (t) => {
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
    const error = { type: "error", code: "busy", message: "", temporary: true, request_id };
    peer.send(error);
    await w.errors.next();
    w.clock.advance(wait - 1);
    await turn();
    assert.equal(peer.frames.size, 0);
    w.clock.advance(1);
  }
  assert.deepEqual(await peer.acked(), [id(1)]);
});

test("messages wait for a handler, and stop() sends the acks it has", async (t) => {
  const w = await world(t, { ackDelayMs: 60_000 });
  w.client.start();
  const peer = await welcomed(w);
  peer.send(message(1));
  await turn();
  take(w);
  assert.equal(await w.got.next(), id(1));
  await turn();
  await w.client.stop();
  assert.deepEqual(await peer.acked(), [id(1)]);
  assert.equal(await peer.gone.next(), 1000);
  assert.deepEqual([w.client.state.final, w.client.state.reason], [true, "stopped"]);
});

test("several at once: `messages` gets what has queued up, all or none", async (t) => {
  const w = await world(t);
  const sizes = new Mailbox<number>();
  w.client.on("messages", (some) => sizes.put(some.length));
  w.client.start();
  const peer = await welcomed(w);
  peer.send({ type: "batch", messages: Array.from({ length: 50 }, (_, index) => message(index + 1)) });
  assert.equal(await sizes.next(), 50);
  await turn();
  w.clock.advance(1);
  assert.equal((await peer.acked()).length, 50);
});

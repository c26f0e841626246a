// 应用眼里的类型：写错的，`@ts-expect-error` 不说话就是错。

import {
  type ConnectionState,
  type Message,
  PushClient,
  PushError,
  type ServerFrame,
  webStore,
} from "meeting-push";

import "meeting-push/inbox";

const client = new PushClient({
  url: location.origin,
  userId: "a@b",
  token: async ({ fresh }) => (fresh ? "new" : "old"),
  store: webStore(localStorage),
  shared: true,
});
const off: () => void = client.on("message", async (message: Message) => {
  if (message.seq !== null) console.log(message.title.length, message.sender?.name, message.data?.["room"]);
  message.ack();
});
client.on("state", ({ name, retryAt }: ConnectionState) => console.log(name, retryAt?.toFixed()));
client.on("gap", ({ from_seq, reason }) => console.log(from_seq + 1, reason === "evicted"));
client.on("frame", (frame: ServerFrame) => {
  if (frame.type === "receipt") console.log(frame.status satisfies "delivered" | "failed" | "expired");
});
client.on("error", (error) => console.log(error instanceof PushError && error.temporary));
// @ts-expect-error: 没有这种事件
client.on("mesage", () => {});
// @ts-expect-error: 令牌是必须的
new PushClient({ url: "/" });
// @ts-expect-error: 只读
client.state = null;
client.say({ type: "watch", user_ids: [1, "a@b"] });
// @ts-expect-error: watch 要 user_ids
client.say({ type: "watch" });
const accepted: string = (await client.rest.send([1], "t", "c", { priority: 9 })).message_id;
console.log(accepted, (await client.rest.inbox({ unread: true })).items[0]?.title);
const inbox = document.createElement("meeting-push-inbox");
inbox.client = client;
console.log(inbox.unread.toFixed());
document.body.append(inbox);
client.start();
await client.connected();
off();
await client.stop();

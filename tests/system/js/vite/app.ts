// 一个真的应用：收、显示；页面给它地址与令牌。

import { PushClient, type UserId } from "meeting-push";
import "meeting-push/inbox";

declare global {
  var given: { url: string; userId: UserId; token: string };
  var seen: string[];
}

globalThis.seen = [];
const client = new PushClient(globalThis.given);
client.on("message", ({ title }) => void globalThis.seen.push(title));
const inbox = document.createElement("meeting-push-inbox");
inbox.client = client;
document.body.append(inbox);
client.start();

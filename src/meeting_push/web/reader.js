import { byId, element } from "./element.js";
import { linked } from "./links.js";
import { avatar, marks, senderName, titleOf } from "./message-list.js";
import { fullTime, say } from "./words.js";

/** 阅读区里的一条消息；正文是纯文字，保留换行，里面的网址可以点。 */
export function showMessage(message) {
  byId("reader-title").textContent = titleOf(message);
  byId("reader-marks").replaceChildren(...marks(message));
  byId("reader-from").replaceChildren(
    avatar(message.sender),
    element(
      "div",
      {},
      element("strong", { textContent: senderName(message.sender) }),
      element("span", { className: "muted", textContent: senderId(message.sender) }),
      element("time", {
        className: "muted",
        dateTime: new Date(message.timestamp).toISOString(),
        textContent: fullTime(message.timestamp),
      }),
    ),
  );
  byId("reply").hidden = !message.sender?.id; // 系统没有收件箱
  byId("archive").textContent = say(message.archived ? "unarchive" : "archive");
  byId("mark-unread").hidden = message.withdrawn;
  byId("reader-body").replaceChildren(...body(message));
  showData(message.data);
  byId("reader-meta").replaceChildren(...meta(message));
}

function body({ withdrawn, content }) {
  if (!withdrawn) return linked(content);
  return [element("span", { className: "muted", textContent: say("withdrawn.text") })];
}

function senderId(sender) {
  return sender?.id ? say("you.id", { id: sender.id }) : "";
}

function showData(data) {
  const empty = data === null || data === undefined || Object.keys(data).length === 0;
  byId("reader-data").hidden = empty;
  byId("reader-data-text").textContent = empty ? "" : JSON.stringify(data, null, 2);
}

function meta(message) {
  const facts = { "meta.priority": message.priority };
  if (message.expires_at) facts["meta.expires"] = fullTime(message.expires_at);
  facts["meta.id"] = message.message_id;
  return Object.entries(facts).map(([key, value]) =>
    element(
      "div",
      {},
      element("dt", { textContent: say(key) }),
      element("dd", { textContent: String(value) }),
    ),
  );
}

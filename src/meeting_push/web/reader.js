import { byId, element } from "./element.js";
import { avatar, isUrgent, senderName, titleOf, urgentMark } from "./message-list.js";
import { fullTime, say } from "./words.js";

/** 阅读区里的一条消息；正文是纯文字，保留换行。 */
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
  byId("reply").hidden = !message.sender.id; // 系统没有收件箱
  byId("reader-body").textContent = message.content;
  showData(message.data);
  byId("reader-meta").replaceChildren(...meta(message));
}

function senderId({ id }) {
  return id ? say("you.id", { id }) : "";
}

function marks(message) {
  const found = isUrgent(message) ? [urgentMark()] : [];
  if (message.message_type !== "message") {
    const textContent = say(`type.${message.message_type}`);
    found.push(element("span", { className: "type-mark", textContent }));
  }
  return found;
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

import { byId } from "./element.js";
import { isUrgent, senderName } from "./message-list.js";
import { say } from "./words.js";

/** 读屏：普通的等一等再念，紧急的打断；一批只念条数。 */
export function announce(messages) {
  const urgent = messages.filter(isUrgent);
  if (urgent.length > 0) byId("announce-urgent").textContent = sentence("urgent", urgent);
  const normal = messages.filter((message) => !isUrgent(message));
  if (normal.length > 0) byId("announce").textContent = sentence("one", normal);
}

function sentence(kind, messages) {
  if (messages.length > 1) return say("announce.many", { count: messages.length });
  const [{ sender, title }] = messages;
  return say(`announce.${kind}`, { sender: senderName(sender), title });
}

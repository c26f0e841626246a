import { knownNames, personOf } from "./address-book.js";
import { byId, element } from "./element.js";
import { isUrgent } from "./message-list.js";
import { RestError } from "./rest.js";
import { explain, say } from "./words.js";

/** 写一条消息。草稿一直留在表单里，直到服务器接受了它。 */
export class Composer {
  #rest;
  #onSent;
  /** 同一份草稿重试时用同一把钥匙：没听到回答的那一次也不会发成两条。 */
  #draft = null;
  #key = null;

  /** `rest()`：此刻这个人的；`onSent(accepted, draft)` 在服务器接受之后。 */
  constructor(rest, onSent) {
    [this.#rest, this.#onSent] = [rest, onSent];
    byId("compose-form").addEventListener("submit", (event) => this.#submit(event));
    byId("compose-priority").addEventListener("input", () => this.#showPriority());
    this.#showPriority();
  }

  /** 打开时预填（回复）；不给就保留上次的草稿。 */
  fill({ recipients, title } = {}) {
    const options = knownNames().map((value) => element("option", { value }));
    byId("known-people").replaceChildren(...options);
    if (recipients !== undefined) byId("compose-recipients").value = recipients;
    if (title !== undefined) byId("compose-subject").value = title;
  }

  clear() {
    byId("compose-form").reset();
    this.#showPriority();
    this.#showError(null);
  }

  #showPriority() {
    const value = Number(byId("compose-priority").value);
    const key = isUrgent({ priority: value }) ? "priority.urgent" : "priority.normal";
    const text = say(key, { value });
    byId("compose-priority-text").textContent = text;
    byId("compose-priority").setAttribute("aria-valuetext", text);
  }

  async #submit(event) {
    event.preventDefault();
    this.#showError(null);
    this.#setBusy(true);
    try {
      const draft = readDraft();
      const accepted = await this.#send(draft);
      this.#key = null;
      this.clear();
      this.#onSent(accepted, draft);
    } catch (error) {
      this.#showError(error);
    } finally {
      this.#setBusy(false);
    }
  }

  #send(draft) {
    const text = JSON.stringify(draft);
    if (this.#key === null || text !== this.#draft) this.#key = newKey();
    this.#draft = text;
    const { recipient_ids: to, title, content, ...more } = draft;
    return this.#rest().send(to, title, content, { ...more, idempotencyKey: this.#key });
  }

  #setBusy(busy) {
    byId("compose-send").disabled = busy;
    byId("compose-send").textContent = say(busy ? "sending" : "send");
  }

  #showError(error) {
    const field = byId("compose-recipients");
    const wrongRecipients = ["recipients", "unknown_recipients"].includes(error?.code);
    field.setAttribute("aria-invalid", String(wrongRecipients));
    byId("compose-error").textContent = error ? explain(error) : "";
    byId("compose-error").hidden = !error;
    if (wrongRecipients) field.focus();
  }
}

function readDraft() {
  return {
    recipient_ids: readRecipients(byId("compose-recipients").value),
    title: byId("compose-subject").value,
    content: byId("compose-content").value,
    priority: Number(byId("compose-priority").value),
    receipt: byId("compose-receipt").checked,
  };
}

/** 半角、全角逗号，顿号，分号，空白都可以分隔；名字或 id。 */
function readRecipients(text) {
  const parts = text.split(/[\s,，、;；]+/).filter((part) => part !== "");
  const ids = parts.map(personOf);
  if (ids.length === 0 || !ids.every(Boolean)) {
    throw new RestError({ code: "recipients", message: "", temporary: false });
  }
  return ids;
}

const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");

import { knownNames, meet, personsOf } from "./address-book.js";
import { byId, element } from "./element.js";
import { isUrgent } from "./message-list.js";
import { RestError } from "./rest.js";
import { explain, say } from "./words.js";

/** 停下来这么久才按名字找人。 */
const TYPE_DELAY_MS = 300;
/** 半角、全角逗号，顿号，分号，换行；空白见 `personsOf`。 */
const SEPARATORS = /[,，、;；\n]/;

/** 写一条消息。草稿一直留在表单里，直到服务器接受了它。 */
export class Composer {
  #rest;
  #onSent;
  /** 同一份草稿重试时用同一把钥匙：没听到回答的那一次也不会发成两条。 */
  #draft = null;
  #key = null;
  #typing = 0;

  /** `rest()`：此刻这个人的；`onSent(accepted, draft)` 在服务器接受之后。 */
  constructor(rest, onSent) {
    [this.#rest, this.#onSent] = [rest, onSent];
    byId("compose-form").addEventListener("submit", (event) => this.#submit(event));
    byId("compose-priority").addEventListener("input", () => this.#showPriority());
    byId("compose-recipients").addEventListener("input", () => this.#suggestSoon());
    this.#showPriority();
  }

  /** 打开时预填（回复）；不给就保留上次的草稿。 */
  fill({ recipients, title } = {}) {
    if (recipients !== undefined) byId("compose-recipients").value = recipients;
    if (title !== undefined) byId("compose-subject").value = title;
    this.#suggest();
  }

  /** 最后写的那一段：名册里像它的；浏览器拿整个框里的字去比，所以前面写了的也在里面。 */
  #suggest() {
    const { value } = byId("compose-recipients");
    const given = value.slice(0, value.length - lastOf(value).trimStart().length);
    const options = knownNames().map((name) => element("option", { value: given + name }));
    byId("known-people").replaceChildren(...options);
  }

  #suggestSoon() {
    clearTimeout(this.#typing);
    const sought = lastOf(byId("compose-recipients").value).trim();
    if (sought === "" || /^\d+$/.test(sought)) return this.#suggest();
    this.#typing = setTimeout(async () => {
      const found = await this.#find([sought.slice(0, 64)]).catch(() => []);
      found.forEach(meet);
      this.#suggest();
    }, TYPE_DELAY_MS);
  }

  async #find(texts) {
    const query = new URLSearchParams(texts.map((text) => ["q", text]));
    const { items } = await this.#rest().call("GET", `people?${query}`);
    return items.map(({ user_id: id, name }) => ({ id, name }));
  }

  clear() {
    clearTimeout(this.#typing);
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
      const draft = await this.#readDraft();
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

  async #readDraft() {
    const parts = byId("compose-recipients").value.split(SEPARATORS).map((part) => part.trim());
    const find = (texts) => this.#find(texts).catch(() => []); // 找不了：照 id 发
    const ids = await personsOf(parts.filter(Boolean), find);
    if (ids.length === 0 || !ids.every(Boolean)) {
      throw new RestError({ code: "recipients", message: "", temporary: false });
    }
    return {
      recipient_ids: ids,
      title: byId("compose-subject").value,
      content: byId("compose-content").value,
      priority: Number(byId("compose-priority").value),
      receipt: byId("compose-receipt").checked,
    };
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

const lastOf = (text) => text.split(SEPARATORS).at(-1);

const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");

import { meet, nameOf } from "./address-book.js";
import { byId, element } from "./element.js";
import { exactTime, explain, say } from "./words.js";

const SHOWN_RECIPIENTS = 100;
const AFTER_RECEIPT_MS = 250;
/** 没有回执时靠询问；从快到慢。 */
const POLL_MS = { first: 1_000, factor: 1.5, longest: 15_000 };

/** 自己发的一条消息的送达情况：回执一到就显示，并以记录（REST）为准；撤回。 */
export class Delivery {
  #session;
  #rest;
  #messageId = null;
  #timer = 0;
  #interval = POLL_MS.first;
  #selfId = null;

  /** `rest()`：此刻这个人的。 */
  constructor(session, rest) {
    [this.#session, this.#rest] = [session, rest];
  }

  get messageId() {
    return this.#messageId;
  }

  /** 开始看一条；先前的那条不再看。`item`：`{message_id, recipient_count, title, content, recipient_ids?, broadcast?, withdrawn?}`。 */
  watch(item) {
    this.#messageId = item.message_id;
    this.#interval = POLL_MS.first;
    this.#selfId = this.#session.user.userId;
    byId("delivery-subject").textContent = item.withdrawn ? say("withdrawn") : item.title;
    byId("delivery-body").textContent = item.content ?? "";
    byId("withdraw").hidden = Boolean(item.withdrawn || item.broadcast);
    byId("delivery-more").hidden = byId("delivery-error").hidden = true;
    const recipients = [...new Set(item.recipient_ids ?? [])].slice(0, SHOWN_RECIPIENTS);
    this.#showCounts({ delivered: 0, total: item.broadcast ? null : item.recipient_count });
    this.#showRows(recipients.map((id) => ({ user_id: id, status: "pending", attempts: 0 })));
    this.#refreshIn(0);
  }

  stop() {
    this.#messageId = null;
    clearTimeout(this.#timer);
  }

  /** 撤回了：看它怎样停下。 */
  withdrawn() {
    byId("withdraw").hidden = true;
    byId("delivery-subject").textContent = say("withdrawn");
    byId("delivery-body").textContent = "";
    this.#refreshIn(0);
  }

  receipt({ message_id: messageId, recipient_id: userId, status, timestamp }) {
    if (messageId !== this.#messageId) return;
    const row = byId("delivery-rows").querySelector(`[data-user="${CSS.escape(String(userId))}"]`);
    if (row) showState(row, { status, delivered_at: timestamp });
    this.#refreshIn(AFTER_RECEIPT_MS);
  }

  #refreshIn(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#refresh(), delay);
  }

  async #refresh() {
    const messageId = this.#messageId;
    try {
      const state = await this.#rest().delivery(messageId, { limit: SHOWN_RECIPIENTS });
      if (messageId === this.#messageId) this.#show(state);
    } catch (error) {
      if (messageId === this.#messageId) this.#trouble(error);
    }
  }

  #show(state) {
    byId("delivery-error").hidden = true;
    this.#showCounts(state);
    for (const { user_id: id, name } of state.recipients) meet({ id, name });
    this.#showRows(state.recipients);
    const [shown, total] = [state.recipients.length, state.total];
    byId("delivery-more").hidden = shown >= (total ?? 0);
    byId("delivery-more").textContent = say("delivery.more", { shown, total });
    if (state.pending > 0) this.#poll();
  }

  #trouble(error) {
    byId("delivery-error").hidden = false;
    byId("delivery-error").textContent = explain(error);
    if (error.temporary) this.#poll();
  }

  #poll() {
    this.#refreshIn(this.#interval);
    this.#interval = Math.min(this.#interval * POLL_MS.factor, POLL_MS.longest);
  }

  #showCounts({ delivered, total }) {
    byId("delivery-progress").hidden = total === null;
    byId("delivery-table").hidden = total === null;
    byId("delivery-progress").max = Math.max(total ?? 0, 1);
    byId("delivery-progress").value = delivered;
    const key = total === null ? "delivery.broadcast" : "delivery.summary";
    byId("delivery-summary").textContent = say(key, { delivered, total });
  }

  #showRows(recipients) {
    byId("delivery-rows").replaceChildren(...recipients.map((state) => this.#row(state)));
  }

  #row(state) {
    const self = state.user_id === this.#selfId ? ` (${say("sender.self")})` : "";
    const name = nameOf(state.user_id) + self;
    const row = element(
      "tr",
      { data: { user: state.user_id } },
      element("th", { scope: "row", textContent: name }),
      element("td", {}, element("span", { className: "state" })),
      element("td", { className: "number", textContent: state.attempts || "–" }),
      element("td", { className: "number" }),
    );
    showState(row, state);
    return row;
  }
}

function showState(row, { status, sent_at: sent, delivered_at: delivered, failed_at: failed, failure_reason }) {
  const mark = row.querySelector(".state");
  mark.dataset.state = status;
  mark.textContent = say(`state.${status}`);
  mark.title = failure_reason ? reasonOf(failure_reason) : "";
  const at = delivered ?? failed ?? sent;
  row.lastElementChild.textContent = at ? exactTime(at) : "–";
}

/** 为什么没有送到：认识的说人话，别的照码。 */
function reasonOf(reason) {
  const key = `reason.${reason}`;
  const said = say(key);
  return said === key ? reason : said;
}

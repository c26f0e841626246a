import { meet } from "./address-book.js";
import { itemOf } from "./meeting-push-inbox.js";

const PAGE = 50;

/** 自己发的，新的在前。 */
export class SentBox {
  items = [];
  state = "loading";
  cursor = null;
  #rest;
  #asked = 0;

  constructor(rest) {
    this.#rest = rest;
  }

  async reload() {
    this.state = "loading";
    await this.#take(null);
  }

  async more() {
    if (this.cursor !== null) await this.#take(this.cursor);
  }

  get(id) {
    return this.items.find((item) => item.message_id === id);
  }

  /** 撤回了：只剩墓碑。 */
  withdrawn(id) {
    const emptied = { title: "", content: "", withdrawn: true };
    this.items = this.items.map((item) => (item.message_id === id ? { ...item, ...emptied } : item));
  }

  async #take(after) {
    const mine = ++this.#asked;
    let page;
    try {
      page = await this.#rest.sent({ cursor: after, limit: PAGE });
    } catch (error) {
      if (mine === this.#asked) this.state = "failed";
      throw error;
    }
    if (mine !== this.#asked) return;
    const items = page.items.map(sentItem);
    this.items = after === null ? items : [...this.items, ...items];
    [this.state, this.cursor] = ["ready", page.next_cursor];
  }
}

/** 自己的，没有未读可言。 */
function sentItem(item) {
  const { recipient_count, recipients = [] } = item;
  for (const { user_id: id, name } of recipients) meet({ id, name });
  return { ...itemOf(item), read: true, sent: true, recipient_count, recipients };
}

import { itemOf } from "./meeting-push-inbox.js";

const PAGE = 50;
/** 一页可以是空的（服务器从新往旧看了这么多别人的）：接着翻，至多这么多页。 */
const EMPTY_PAGES = 10;

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
    let [cursor, found] = [after, []];
    try {
      for (let pages = 0; pages < EMPTY_PAGES && found.length === 0; pages++) {
        const page = await this.#rest.sent({ cursor, limit: PAGE });
        [cursor, found] = [page.next_cursor, page.items];
        if (cursor === null) break;
      }
    } catch (error) {
      if (mine === this.#asked) this.state = "failed";
      throw error;
    }
    if (mine !== this.#asked) return;
    const items = found.map(sentItem);
    this.items = after === null ? items : [...this.items, ...items];
    [this.state, this.cursor] = ["ready", cursor];
  }
}

/** 自己的，没有未读可言。 */
function sentItem(item) {
  return { ...itemOf(item), read: true, sent: true, recipient_count: item.recipient_count };
}

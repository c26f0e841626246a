const MAX_ACK_IDS = 1000;

/** 确认要等 `ack_result` 才算数：断线时在途的，下一条连接上重送（续传不会再推它们）。 */
export class Acks {
  #waiting = new Set();
  #inFlight = new Map();
  #nextRequestId = 1;

  add(messageId) {
    this.#waiting.add(messageId);
  }

  /** 取出一批去送；没有则 null。 */
  take() {
    if (this.#waiting.size === 0) return null;
    const ids = [...this.#waiting].slice(0, MAX_ACK_IDS);
    for (const id of ids) this.#waiting.delete(id);
    const requestId = this.#nextRequestId++;
    this.#inFlight.set(requestId, ids);
    return { type: "ack", message_ids: ids, request_id: requestId };
  }

  confirmed(requestId) {
    this.#inFlight.delete(requestId);
  }

  reopen() {
    const unconfirmed = [...this.#inFlight.values()].flat();
    this.#inFlight.clear();
    this.#waiting = new Set([...unconfirmed, ...this.#waiting]);
  }
}

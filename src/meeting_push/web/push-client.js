/**
 * 从前的样子，为导入这个地址的页面留着：选项与状态的名不变，办事的是 `./meeting-push.js`。新写的用它。
 *
 *   const client = new PushClient({ url, userId, getToken, onMessages, onState, onFrame });
 *   client.start();
 */

import { PushClient as Client } from "./meeting-push.js";

export class PushClient {
  #client;

  constructor({ getToken, onMessages, onState = () => {}, onFrame = () => {}, ...options }) {
    this.#client = new Client({ ...options, token: ({ fresh }) => getToken(fresh) });
    this.#client.on("messages", (messages) => onMessages(messages));
    this.#client.on("state", () => onState(this.state));
    this.#client.on("frame", (frame) => onFrame(frame));
  }

  /** connecting · live · waiting（retryAt、reason）· stopped（code、reason）。 */
  get state() {
    const { name, final, code, reason, retryAt } = this.#client.state;
    if (name === "connected") return { name: "live" };
    if (name === "connecting") return { name };
    return final ? { name: "stopped", code, reason } : { name: "waiting", retryAt, reason };
  }

  start() {
    this.#client.start();
  }

  stop() {
    void this.#client.stop();
  }

  retryNow() {
    this.#client.retryNow();
  }

  /** 送一帧；没连着则什么也不做，返回 false。 */
  send(frame) {
    return this.#client.say(frame);
  }
}

import { byId } from "./element.js";
import { say } from "./words.js";

const TICK_MS = 250;

/** 连接状态：形状与文字都说得清，不只靠颜色。 */
export class ConnectionState {
  #timer = 0;
  #actions;

  /** `actions`：retry()、reconnect()、signIn()。 */
  constructor(actions) {
    this.#actions = actions;
    byId("retry-now").addEventListener("click", () => actions.retry());
    byId("stopped-action").addEventListener("click", () => this.#act());
  }

  /** `state`：SDK 的；等着重连与不再连，人要做的不一样。 */
  show(state) {
    clearInterval(this.#timer);
    const waiting = state.retryAt !== null;
    const shown = { connected: "live", connecting: "connecting" }[state.name];
    const name = shown ?? (waiting ? "waiting" : "stopped");
    byId("connection").dataset.state = name;
    byId("connection-label").textContent = say(`connection.${name}`);
    byId("retry-now").hidden = !waiting;
    byId("countdown").hidden = !waiting;
    if (waiting) this.#countDown(state.retryAt);
    this.#showReason(state);
  }

  #countDown(retryAt) {
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      byId("countdown").textContent = say("connection.countdown", { seconds });
    };
    tick();
    this.#timer = setInterval(tick, TICK_MS);
  }

  /** 不再连：说明原因，给一条出路。自己停下的不必说。 */
  #showReason({ final, code, reason }) {
    const refused = final && reason !== "stopped";
    byId("stopped").hidden = !refused;
    if (!refused) return;
    const known = ["revoked", "kicked", "replaced", "invalid_token", "forbidden"];
    byId("stopped-reason").textContent = known.includes(reason)
      ? say(`stopped.${reason}`)
      : say("stopped.other", { reason: reason || code });
    const again = ["kicked", "replaced", "protocol_violation"].includes(reason);
    byId("stopped-action").dataset.act = again ? "reconnect" : "signIn";
    byId("stopped-action").textContent = say(again ? "stopped.reconnect" : "stopped.signin");
  }

  #act() {
    this.#actions[byId("stopped-action").dataset.act]();
  }
}

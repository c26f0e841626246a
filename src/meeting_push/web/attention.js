import { byId } from "./element.js";
import { senderName } from "./message-list.js";
import { say } from "./words.js";

const KEPT_AS = "meeting-push.notify";
const SIZE = 64;
const MANY = 99;

/** 标签页的标题与图标上的未读数。 */
export function showUnread(count) {
  const badge = byId("unread");
  badge.hidden = count === 0;
  badge.textContent = count > 999 ? "999+" : String(count);
  badge.setAttribute("aria-label", say("unread.badge", { count }));
  byId("read-all").disabled = count === 0;
  document.title = count === 0 ? say("inbox") : `(${count}) ${say("inbox")}`;
  const icon = document.querySelector("link[rel=icon]");
  icon.type = count === 0 ? "image/svg+xml" : "image/png";
  icon.href = count === 0 ? "static/icon.svg" : drawn(count);
}

function drawn(count) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#b3261e";
  pen.beginPath();
  pen.arc(SIZE / 2, SIZE / 2, SIZE / 2, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.font = `bold ${count > 9 ? 34 : 42}px sans-serif`;
  [pen.textAlign, pen.textBaseline] = ["center", "middle"];
  pen.fillText(count > MANY ? "99+" : String(count), SIZE / 2, SIZE / 2 + 3, SIZE - 8);
  return canvas.toDataURL("image/png");
}

/** 桌面通知：人要了、浏览器许了才有；页面正看着时不打扰。 */
export class DesktopNotices {
  #button = byId("notify");
  #onOpen;

  constructor(onOpen) {
    this.#onOpen = onOpen;
    this.#button.hidden = !("Notification" in window);
    this.#button.addEventListener("click", () => void this.#toggle());
    this.#show();
  }

  get on() {
    return localStorage.getItem(KEPT_AS) === "yes" && Notification.permission === "granted";
  }

  /** 几个标签页说的是同一条：浏览器按 `tag` 只留一份。 */
  tell(messages) {
    if (this.#button.hidden || !this.on || document.visibilityState === "visible") return;
    for (const { message_id: id, sender, title } of messages.slice(-3)) {
      const notice = new Notification(title, { body: senderName(sender), tag: id, icon: "static/icon.svg" });
      notice.onclick = () => {
        window.focus();
        notice.close();
        this.#onOpen(id);
      };
    }
  }

  async #toggle() {
    if (this.on) localStorage.removeItem(KEPT_AS);
    else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(KEPT_AS, "yes");
    this.#show();
  }

  #show() {
    if (this.#button.hidden) return;
    const state = Notification.permission === "denied" ? "denied" : this.on ? "on" : "off";
    this.#button.setAttribute("aria-pressed", String(state === "on"));
    this.#button.title = say(`notify.${state}`);
    this.#button.setAttribute("aria-label", say("notify"));
    this.#button.disabled = state === "denied";
  }
}

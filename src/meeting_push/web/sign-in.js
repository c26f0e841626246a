import { byId } from "./element.js";
import { explain, say } from "./words.js";

/** 登录与注册：同一张表单，两种模式。 */
export class SignIn {
  #session;
  #onDone;
  #mode = "signin";

  constructor(session, onDone) {
    this.#session = session;
    this.#onDone = onDone;
    byId("signin-form").addEventListener("submit", (event) => this.#submit(event));
    byId("signin-switch").addEventListener("click", () => {
      this.#setMode(this.#mode === "signin" ? "register" : "signin");
      byId("username").focus();
    });
    this.#setMode("signin");
  }

  /** `reason`：为什么又要登录；没有则空。 */
  show(reason = "") {
    byId("password").value = "";
    this.#showError(reason);
    byId("username").focus();
  }

  #setMode(mode) {
    this.#mode = mode;
    byId("signin-title").textContent = say(`${mode}.title`);
    byId("signin-submit").textContent = say(`${mode}.submit`);
    byId("signin-switch").textContent = say(`${mode}.switch`);
    for (const hint of ["username-hint", "password-hint"]) byId(hint).hidden = mode === "signin";
    byId("password").autocomplete = mode === "signin" ? "current-password" : "new-password";
    this.#showError("");
  }

  async #submit(event) {
    event.preventDefault();
    const [username, password] = [byId("username").value.trim(), byId("password").value];
    byId("signin-submit").disabled = true;
    this.#showError("");
    try {
      if (this.#mode === "signin") await this.#session.signIn(username, password);
      else await this.#session.register(username, password);
      byId("signin-form").reset();
      this.#onDone();
    } catch (error) {
      this.#showError(explain(error));
    } finally {
      byId("signin-submit").disabled = false;
    }
  }

  #showError(text) {
    byId("signin-error").textContent = text;
    byId("signin-error").hidden = text === "";
  }
}

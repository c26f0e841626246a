import { byId } from "./element.js";
import { explain, say } from "./words.js";

/** 登录与注册：同一张表单，两种模式；或粘贴别处签发的令牌。 */
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
    byId("token-form").addEventListener("submit", (event) => this.#paste(event));
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
    await this.#trying(byId("signin-submit"), () =>
      this.#mode === "signin"
        ? this.#session.signIn(username, password)
        : this.#session.register(username, password),
    );
  }

  async #paste(event) {
    event.preventDefault();
    await this.#trying(byId("token-submit"), async () => {
      await this.#session.paste(byId("token").value);
      if (this.#session.user.userId === null) throw { code: "session_expired" }; // 密钥没有收件箱
    });
  }

  async #trying(button, act) {
    button.disabled = true;
    this.#showError("");
    try {
      await act();
      for (const id of ["signin-form", "token-form"]) byId(id).reset();
      this.#onDone();
    } catch (error) {
      this.#session.forget();
      if (error.status === 404) byId("token-entry").open = true;
      this.#showError(refusal(error));
    } finally {
      button.disabled = false;
    }
  }

  #showError(text) {
    byId("signin-error").textContent = text;
    byId("signin-error").hidden = text === "";
  }
}

function refusal(error) {
  if (error.status === 404) return say("no_accounts");
  if (error.code === "session_expired") return say("token.refused");
  return explain(error);
}

// Signing in with a token, and renewing it while the session lives. The token is
// kept in this tab only.

const key = "sluice.token";
const $ = (id) => document.getElementById(id);

export class SignIn {
  #waiting = null; // of whom a token is asked for: {resolve, reject}

  constructor() {
    $("signin-form").addEventListener("submit", (e) => {
      e.preventDefault();
      this.#take($("token").value.trim());
    });
    $("signin").addEventListener("cancel", (e) => {
      if ($("signin").dataset.kind !== "renew") e.preventDefault(); // nothing works without
    });
    $("signin").addEventListener("keydown", (e) => e.key === "Enter" && (e.ctrlKey || e.metaKey) && $("signin-form").requestSubmit());
    $("renew-go").addEventListener("click", () => this.#show("renew", "Renew the session", "The token expires soon. With a new one the session goes on without a break."));
    $("renew-not").addEventListener("click", () => this.#hideRenewal());
  }

  get open() { return $("signin").open; }

  // credentials gives the client a token: the one that is kept, or after a
  // refusal another, for which the person is asked.
  credentials(refused, online) {
    this.#waiting?.reject(new Error("another token is asked for"));
    this.#waiting = null;
    if (!refused) return Promise.resolve(sessionStorage.getItem(key));
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      if (online) $("renew").hidden = false;
      else this.ask(refused.message);
    });
  }

  // ask opens the dialog and tells why.
  ask(why) {
    this.#hideRenewal();
    sessionStorage.removeItem(key);
    this.#show("first", "Sign in", why);
  }

  settled() {
    this.#hideRenewal();
    if (this.open) $("signin").close();
  }

  get signedIn() { return sessionStorage.getItem(key) !== null; }

  signOut() {
    sessionStorage.removeItem(key);
    location.reload();
  }

  #show(kind, title, why) {
    $("signin").dataset.kind = kind;
    $("signin-title").textContent = title;
    $("signin-why").textContent = why;
    if (!this.open) $("signin").showModal();
    $("token").focus();
  }

  #hideRenewal() {
    $("renew").hidden = true;
  }

  #take(token) {
    if (!token) return;
    sessionStorage.setItem(key, token);
    $("token").value = "";
    $("signin").close();
    this.#hideRenewal();
    if (this.#waiting) this.#waiting.resolve(token);
    else location.reload(); // the client has given up: begin anew
    this.#waiting = null;
  }
}

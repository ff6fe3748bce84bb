// The list of one's questions: one stop for the Tab key, arrows within.

import { h, setText } from "./dom.js";
import { named, queue, states, titleOf, when } from "./words.js";

export class ListView {
  // act is asked to open, cancel, resume and forget a question.
  constructor(root, act) {
    this.root = root;
    this.act = act;
    this.entries = new Map();
    root.addEventListener("keydown", (e) => this.#key(e));
    root.addEventListener("focusin", (e) => this.#stop(e.target.closest("li")));
  }

  // show lists questions, newest first, with the selected one marked.
  show(questions, selected) {
    const focused = document.activeElement?.closest?.("#" + this.root.id + " li")?.dataset.id;
    const ids = new Set(questions.map((q) => q.id));
    for (const [id, entry] of this.entries) {
      if (ids.has(id)) continue;
      entry.root.remove();
      this.entries.delete(id);
    }
    questions.forEach((q, i) => {
      let entry = this.entries.get(q.id);
      if (!entry) this.entries.set(q.id, (entry = this.#entry(q)));
      if (this.root.children[i] !== entry.root) this.root.insertBefore(entry.root, this.root.children[i] ?? null);
      this.update(q, q === selected);
    });
    if (focused && !ids.has(focused)) this.root.querySelector("li button")?.focus();
    if (!this.root.querySelector('.open[tabindex="0"]')) this.#stop(this.root.firstElementChild);
  }

  update(q, selected) {
    const e = this.entries.get(q.id);
    if (!e) return;
    e.mark.dataset.state = q.state;
    e.mark.dataset.live = String(!q.over);
    setText(e.query, titleOf(q.query));
    setText(e.about, [queue(q.columns) || states[q.state], named(q.columns.map((c) => c.model || c.served))].filter(Boolean).join(" · "));
    setText(e.when, when(q.created, Date.now()));
    e.cancel.hidden = q.over || q.columns.every((c) => !c.live || c.cancelling);
    e.resume.hidden = !q.columns.some((c) => c.resumable);
    if (selected) e.open.setAttribute("aria-current", "true");
    else e.open.removeAttribute("aria-current");
  }

  focus() {
    (this.root.querySelector('.open[tabindex="0"]') ?? this.root.querySelector(".open"))?.focus();
  }

  #entry(q) {
    const mark = h("span", { class: "mark", "aria-hidden": "true" }), query = h("span", { class: "q", dir: "auto" }), about = h("span", { class: "m" }), when = h("span", { class: "when" });
    const title = titleOf(q.query).slice(0, 60);
    const open = h("button", { type: "button", class: "open", tabindex: -1, click: () => this.act.open(q) }, mark, query, when, about);
    const side = (label, click) => h("button", { type: "button", class: "quiet", tabindex: -1, hidden: true, "aria-label": `${label}: ${title}`, click }, label);
    const cancel = side("Cancel", () => this.act.cancel(q)), resume = side("Resume", () => this.act.resume(q));
    return { root: h("li", { "data-id": q.id }, open, cancel, resume), open, mark, query, about, when, cancel, resume };
  }

  // stop makes an entry the list's one stop for the Tab key.
  #stop(li) {
    if (!li) return;
    for (const b of this.root.querySelectorAll("button")) b.tabIndex = li.contains(b) ? 0 : -1;
  }

  #key(e) {
    const all = [...this.root.children];
    const at = all.indexOf(e.target.closest("li"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[e.key];
    if (to !== undefined) {
      e.preventDefault();
      all[Math.max(0, Math.min(all.length - 1, to))]?.querySelector(".open").focus();
    } else if (e.key === "Delete") {
      e.preventDefault();
      const id = all[at]?.dataset.id;
      if (id) this.act.forget(id);
    }
  }
}

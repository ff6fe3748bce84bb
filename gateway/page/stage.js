// The stage: one question, and its answers side by side; where it is narrow, one
// at a time behind tabs.

import { ColumnView } from "./column.js";
import { h, setText } from "./dom.js";
import { spans, states, titleOf } from "./words.js";

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 820px)");

export class Stage {
  // act is asked to cancel, resume or ask again; lost tells why the gateway is not
  // connected, "" when it is.
  constructor(act, lost) {
    this.act = act;
    this.lost = lost;
    this.question = null;
    this.views = [];
    this.tabs = [];
    this.active = 0; // of the tabs
    this.said = new WeakMap(); // what was announced of a column
    this.timer = 0;
    this.whole = false; // the question is not folded
    narrow.addEventListener("change", () => this.draw());
    addEventListener("resize", () => this.#fold());
    $("asked-more").addEventListener("click", () => {
      this.whole = !this.whole;
      this.#fold();
    });
    $("follow").addEventListener("click", () => {
      $("stage").scrollTop = $("stage").scrollHeight;
      $("stage").focus({ preventScroll: true }); // the button goes
    });
    $("stage").addEventListener("scroll", () => this.#offerToFollow(), { passive: true });
    $("tabs").addEventListener("keydown", (e) => {
      const to = { ArrowRight: this.active + 1, ArrowLeft: this.active - 1, Home: 0, End: this.views.length - 1 }[e.key];
      if (to === undefined) return;
      e.preventDefault();
      this.#turn(to);
      this.tabs[this.active].focus();
    });
    this.#swipes();
  }

  // show puts a question on the stage, or the welcome for null.
  show(q) {
    const same = q !== null && q === this.question;
    this.question = q;
    $("welcome").hidden = q !== null;
    $("asked").hidden = q === null;
    const before = new Map(this.views.map((v) => [v.column, v]));
    this.views = (q?.columns ?? []).map((c) => before.get(c) ?? new ColumnView(c, this.act));
    if (!same) {
      this.active = 0;
      this.whole = false;
    }
    this.active = Math.min(this.active, Math.max(0, this.views.length - 1));
    this.tabs = this.views.map((v, i) => h("button", { type: "button", role: "tab", id: v.root.id + "-tab", "aria-controls": v.root.id, click: () => this.#turn(i) },
      h("span", { class: "mark", "aria-hidden": "true" }), h("span", { class: "tab-name" }, v.name.textContent), h("span", { class: "hidden" })));
    $("tabs").replaceChildren(...this.tabs);
    for (const [column, v] of before) if (!q?.columns.includes(column)) v.root.remove();
    this.views.forEach((v, i) => {
      if ($("columns").children[i] !== v.root) $("columns").insertBefore(v.root, $("columns").children[i] ?? null);
    });
    $("columns").dataset.count = String(this.views.length);
    setText($("asked-query"), q?.query ?? "");
    this.#fold();
    this.draw();
    if (!same) $("stage").scrollTop = q && !q.over ? $("stage").scrollHeight : 0;
  }

  // draw shows what has changed.
  draw() {
    const q = this.question;
    const title = q ? titleOf(q.query) : "New question";
    setText($("title"), title);
    const whole = q ? (q.over ? "" : "… ") + title.slice(0, 60) + " – Sluice" : "Sluice";
    if (document.title !== whole) document.title = whole;
    if (!q) {
      this.#offerToFollow();
      return;
    }
    const stage = $("stage");
    const follows = this.#atEnd();
    const lost = this.lost();
    const now = Date.now();
    const longest = Math.max(...q.columns.map((c) => spans(c).reduce((n, s) => n + s.ms, 0)), 1);
    const tabbed = narrow.matches && this.views.length > 1;
    $("tabs").hidden = !tabbed;
    $("columns").dataset.tabbed = String(tabbed);
    this.views.forEach((v, i) => {
      v.update(lost, longest, now);
      v.root.hidden = tabbed && i !== this.active;
      if (tabbed) v.root.setAttribute("role", "tabpanel");
      else v.root.removeAttribute("role");
      const tab = this.tabs[i];
      tab.setAttribute("aria-selected", String(i === this.active));
      tab.tabIndex = i === this.active ? 0 : -1;
      tab.children[0].dataset.state = v.column.state;
      tab.children[0].dataset.live = String(!v.column.over);
      setText(tab.children[2], ", " + states[v.column.state]);
    });
    if (follows && !q.over) stage.scrollTop = stage.scrollHeight;
    this.#offerToFollow();
    this.#tick(q, now);
  }

  #atEnd() {
    const stage = $("stage");
    return stage.scrollHeight - stage.scrollTop - stage.clientHeight < 60;
  }

  // Who has scrolled away from an answer that grows can go back.
  #offerToFollow() {
    $("follow").hidden = this.question === null || this.question.over || this.#atEnd();
  }

  // fold shows the beginning of a long question, and lets its end be seen.
  #fold() {
    const text = $("asked-query"), more = $("asked-more");
    text.classList.add("folded");
    const long = text.scrollHeight > text.clientHeight + 4;
    text.classList.toggle("folded", long && !this.whole);
    more.hidden = !long;
    more.setAttribute("aria-expanded", String(this.whole));
    setText(more, this.whole ? "Show less of it" : "Show all of it");
  }

  // tick draws again where time shows: while somebody thinks, or a wait runs out.
  #tick(q, now) {
    const runs = q.columns.some((c) => (!c.over && c.thought && !c.thought.ms) || (c.error?.until ?? 0) > now - 1000);
    if (runs && !this.timer) this.timer = setInterval(() => this.draw(), 500);
    if (!runs) {
      clearInterval(this.timer);
      this.timer = 0;
    }
  }

  focus(column) {
    const i = this.views.findIndex((v) => v.column === column);
    if (i < 0) return;
    this.#turn(i);
    this.views[i].root.focus({ preventScroll: true });
  }

  holds(column, element) {
    return this.views.find((v) => v.column === column)?.root.contains(element) ?? false;
  }

  // step goes to the answer before or after.
  step(by) {
    if (this.views.length === 0) return;
    const at = this.views.findIndex((v) => v.root.contains(document.activeElement));
    const to = at < 0 && !narrow.matches ? (by > 0 ? 0 : this.views.length - 1) : (at < 0 ? this.active : at) + by;
    this.#turn(to);
    this.views[this.active].root.focus();
    this.views[this.active].root.scrollIntoView({ block: "nearest" });
  }

  #turn(to) {
    this.active = Math.max(0, Math.min(this.views.length - 1, to));
    this.draw();
    this.tabs[this.active]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #swipes() {
    let from = null;
    $("columns").addEventListener("touchstart", (e) => {
      const t = e.touches[0];
      from = e.touches.length === 1 && !e.target.closest("pre, .scroll, .track") ? { x: t.clientX, y: t.clientY } : null;
    }, { passive: true });
    $("columns").addEventListener("touchend", (e) => {
      const t = e.changedTouches[0];
      if (!from || !narrow.matches) return;
      const dx = t.clientX - from.x, dy = t.clientY - from.y;
      if (Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) this.#turn(this.active + (dx < 0 ? 1 : -1));
    }, { passive: true });
  }

  // tell announces that an answer has begun or ended, and no word of it.
  tell(column) {
    const begun = column.text !== "" && !column.over;
    const news = column.over ? column.state : begun ? "begun" : "";
    if (!news || this.said.get(column) === news) return;
    this.said.set(column, news);
    const name = column.model || column.served || "the model";
    const sentence = { begun: `${name} answers.`, complete: `${name}: complete${column.result?.tokens ? `, ${column.result.tokens} tokens` : ""}.`, failed: `${name}: failed. ${column.error?.message ?? ""}`, cancelled: `${name}: cancelled.` }[news];
    this.news = [...(this.news ?? []), sentence];
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => {
      setText($("announcer"), this.news.join(" "));
      this.news = [];
    }, 300);
  }
}

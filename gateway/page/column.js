// One answer on the stage: its text as it grows, what came beside it, how it
// ended and how it was made.

import { Growing, copied, h, link, setText } from "./dom.js";
import { safe, settled } from "./markdown.js";
import { pretty } from "./parts.js";
import * as words from "./words.js";

// ColumnView shows a column. act is asked to cancel, resume or ask again.
export class ColumnView {
  constructor(column, act) {
    this.column = column;
    const id = "c-" + column.jobId.replace(/[^\w-]/g, "-");
    const name = column.model || column.served || "default model";
    const button = (label, kind, click) => h("button", { type: "button", class: kind, click }, label);
    this.mark = h("span", { class: "mark", "aria-hidden": "true" });
    this.name = h("h2", { id: id + "-name", class: "name" }, name);
    this.served = h("span", { class: "faint" });
    this.cancel = h("button", { type: "button", class: "stop small", "aria-label": "Cancel the answer of " + name, click: () => act.cancel(this.column) }, "Cancel");
    this.status = h("p", { class: "status" });
    this.attempts = h("p", { class: "note", hidden: true });
    this.thinking = h("summary");
    this.thoughts = h("div", { dir: "auto" });
    this.reasoning = h("details", { class: "reasoning", hidden: true }, this.thinking, this.thoughts);
    this.thinking.addEventListener("click", () => (this.touched = true));
    this.text = h("div", { class: "text" });
    this.growing = new Growing(this.text);
    this.extras = h("div", { class: "extras" });
    this.calls = [];
    this.cut = h("p", { class: "note cut", hidden: true });
    this.failure = h("div", { class: "failure", hidden: true });
    this.track = h("div", { class: "track", role: "img" });
    this.legend = h("ul", { class: "legend" });
    this.timing = h("div", { class: "timing", hidden: true }, h("div", { class: "scale" }, this.track), this.legend);
    this.facts = h("dl", { class: "facts", "aria-label": "How the answer was made" });
    this.copy = button("Copy answer", "quiet", () => copied(this.copy, this.column.text));
    this.again = button("Ask again", "quiet help", () => act.again(this.column));
    this.resume = button("Resume", "quiet help", () => act.resume(this.column));
    this.actions = h("div", { class: "actions", role: "group", "aria-label": "What to do with this answer", hidden: true }, this.resume, this.again, this.copy);
    this.root = h("section", { class: "column", id, tabindex: -1, "aria-labelledby": id + "-name", "data-model": column.model },
      h("header", {}, this.mark, this.name, this.served, h("span", { class: "grow" }), this.cancel),
      this.status, this.attempts, this.reasoning, this.text, this.extras, this.cut, this.failure, this.timing, this.facts, this.actions);
  }

  // update draws what has changed. lost is why there is no connection, "" if there
  // is one; longest the time of the slowest answer beside this one, for a common
  // scale.
  update(lost, longest, now) {
    const c = this.column;
    this.mark.dataset.state = c.state;
    this.mark.dataset.live = String(!c.over);
    this.root.dataset.state = c.state;
    setText(this.served, [c.served && c.served !== c.model ? c.served : "", c.provider && c.provider !== c.model ? c.provider : ""].filter(Boolean).join(" · "));
    this.cancel.hidden = !c.live;
    this.cancel.disabled = c.cancelling === true;
    setText(this.status, words.status(c, lost));
    const attempts = words.attempts(c);
    this.attempts.hidden = !attempts;
    setText(this.attempts, attempts);
    this.#reasoning(c, now);
    this.growing.set(c.over ? c.text : settled(c.text));
    this.text.classList.toggle("live", !c.over && c.text !== "");
    this.#extras(c);
    const cut = words.cut(c);
    this.cut.hidden = !cut;
    setText(this.cut, cut);
    this.#failure(c, now);
    this.#timing(c, longest);
    this.#facts(c);
    this.actions.hidden = !c.over;
    this.copy.hidden = !c.text;
  }

  #reasoning(c, now) {
    this.reasoning.hidden = !c.parts.reasoning;
    if (this.reasoning.hidden) return;
    setText(this.thinking, words.reasoning(c, now));
    setText(this.thoughts, c.parts.reasoning.trim());
    // Open while there is nothing else to read, folded when the answer begins.
    if (!this.touched) this.reasoning.open = !c.text && !c.over && c.parts.calls.length === 0;
    if (this.reasoning.open && !c.over && !c.text) this.thoughts.scrollTop = this.thoughts.scrollHeight;
  }

  #extras(c) {
    const p = c.parts;
    // Calls stream: their elements stay, so that what was folded stays folded.
    if (this.calls.length > p.calls.length) this.calls = [];
    const key = [p.calls.length, p.sources.length, p.images.length, p.other.length, p.refusal.length].join();
    if (this.extras.dataset.key !== key) {
      this.extras.dataset.key = key;
      while (this.calls.length < p.calls.length) this.calls.push(callView());
      const refusal = p.refusal && h("div", { class: "refusal" }, h("b", {}, "The model declined"), h("p", { dir: "auto" }, p.refusal));
      this.extras.replaceChildren(...[refusal, ...this.calls.map((v) => v.root), ...p.images.map(imageView), sourcesView(p.sources), otherView(p.other)].filter(Boolean));
    }
    p.calls.forEach((call, i) => {
      const v = this.calls[i];
      setText(v.name, call.name || "…");
      setText(v.state, words.callState(call, c));
      setText(v.code, pretty(call.arguments));
    });
  }

  #failure(c, now) {
    const f = words.failure(c, now);
    this.failure.hidden = !f;
    this.resume.hidden = !c.resumable;
    this.again.disabled = (f?.wait ?? 0) > 0;
    setText(this.again, words.again(f?.wait ?? 0));
    if (!f) return;
    const key = [f.title, ...f.lines, f.code].join("\n");
    if (this.failure.dataset.key === key) return;
    this.failure.dataset.key = key;
    this.failure.classList.toggle("calm", f.calm);
    this.failure.replaceChildren(h("b", {}, f.title), ...f.lines.map((l) => h("p", {}, l)), ...(f.code ? [h("p", { class: "faint" }, [f.code, f.retryable ? "asking again may help" : ""].filter(Boolean).join(" · "))] : []));
  }

  #timing(c, longest) {
    const spans = words.spans(c);
    this.timing.hidden = spans.length === 0;
    if (this.timing.hidden) return;
    const whole = spans.reduce((n, s) => n + s.ms, 0);
    this.track.style.width = Math.max(4, (100 * whole) / Math.max(1, longest)) + "%";
    const key = spans.map((s) => s.ms).join();
    if (this.track.dataset.key === key) return;
    this.track.dataset.key = key;
    this.track.setAttribute("aria-label", "Timings: " + spans.map((s) => `${s.name} ${words.ms(s.ms)}`).join(", "));
    this.track.replaceChildren(...spans.map((s) => {
      const e = h("span", { class: "seg " + s.kind });
      e.style.flexGrow = String(Math.max(s.ms, 0.001));
      return e;
    }));
    this.legend.replaceChildren(...spans.map((s) => h("li", {}, h("i", { class: "seg " + s.kind, "aria-hidden": "true" }), `${s.name} ${words.ms(s.ms)}`)));
  }

  #facts(c) {
    const facts = words.facts(c);
    const key = JSON.stringify(facts);
    if (this.facts.dataset.key === key) return;
    this.facts.dataset.key = key;
    this.facts.replaceChildren(...facts.map((f) => h("div", { class: f.tone || null, title: f.note || null }, h("dt", {}, f.name), h("dd", {}, f.value))));
  }
}

function callView() {
  const name = h("code"), state = h("span", { class: "faint" }), code = h("code");
  const pre = h("pre", { tabindex: 0, role: "group", "aria-label": "Arguments of the tool call" }, code);
  return { name, state, code, root: h("details", { class: "call", open: true }, h("summary", {}, "Tool call ", name, " ", state), pre) };
}

function imageView(i) {
  const known = /^image\/(?:png|jpeg|gif|webp)$/.test(i.mediaType) && /^[\w+/=]+$/.test(i.data);
  if (known) return h("figure", { class: "image" }, h("img", { src: `data:${i.mediaType};base64,${i.data}`, alt: "Image from the model" }));
  const href = safe(i.url);
  return h("p", { class: "image" }, href ? link(href, `Image at ${new URL(href).host}`) : "An image that can't be shown here");
}

function sourcesView(sources) {
  if (sources.length === 0) return "";
  const item = (s) => {
    const href = safe(s.url);
    const name = s.title || (href ? new URL(href).host : "") || s.source || "Source";
    return h("li", {}, href ? link(href, name) : h("span", {}, name), href && s.title ? h("span", { class: "faint" }, " " + new URL(href).host) : "", s.text ? h("q", {}, s.text) : "");
  };
  return h("div", { class: "sources", role: "group", "aria-label": "Sources" }, h("h3", { "aria-hidden": "true" }, "Sources"), h("ol", {}, ...sources.map(item)));
}

function otherView(other) {
  const shown = other.filter((o) => o.kind !== "provider_data");
  if (shown.length === 0) return "";
  return h("details", { class: "call" }, h("summary", {}, `Data of the provider (${shown.length})`), h("pre", { tabindex: 0, role: "group", "aria-label": "Data of the provider" }, h("code", {}, JSON.stringify(shown, null, 2))));
}

// Choosing who answers: one model, or several side by side.

import { h, setText } from "./dom.js";
import { named } from "./words.js";

export const most = 4; // models at once

// choose works out what is chosen of what is offered: what was wished and can
// still be had, or the default. Names that fit a pattern on offer can be had, too.
export function choose(wished, offered, fallback) {
  const can = (name) => offered.some((m) => fits(m.name, name));
  const chosen = [...new Set(wished)].filter((n) => typeof n === "string" && n !== "" && (offered.length === 0 || can(n))).slice(0, most);
  if (chosen.length > 0) return chosen;
  return fallback && (offered.length === 0 || can(fallback)) ? [fallback] : offered.filter((m) => !m.name.includes("*")).slice(0, 1).map((m) => m.name);
}

// fits tells whether a name is one that a pattern stands for, in which * is any
// characters.
export function fits(pattern, name) {
  const parts = pattern.split("*");
  if (parts.length === 1) return pattern === name;
  if (name.length < pattern.length - parts.length + 1 || !name.startsWith(parts[0]) || !name.endsWith(parts.at(-1))) return false;
  let at = parts[0].length;
  for (const part of parts.slice(1, -1)) {
    const i = name.indexOf(part, at);
    if (i < 0) return false;
    at = i + part.length;
  }
  return at <= name.length - parts.at(-1).length;
}

const key = "sluice.models";

export class Picker {
  // Elements: the button that opens the panel, the panel with a list, a row for
  // other names, and a note.
  constructor({ button, panel, list, other, name, add, note }) {
    Object.assign(this, { button, panel, list, other, name, note });
    this.offered = [];
    this.chosen = [];
    this.wished = remembered();
    this.written = []; // names that were written, not offered
    button.addEventListener("click", () => this.toggle());
    add.addEventListener("click", () => this.#write());
    name.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" || e.ctrlKey || e.metaKey) return;
      e.preventDefault();
      this.#write();
    });
    document.addEventListener("pointerdown", (e) => this.open && !panel.contains(e.target) && !button.contains(e.target) && this.toggle(false));
    panel.addEventListener("keydown", (e) => this.#key(e));
  }

  get open() { return !this.panel.hidden; }

  toggle(open = !this.open) {
    const inside = this.panel.contains(document.activeElement);
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) (this.list.querySelector("input:checked") ?? this.list.querySelector("input"))?.focus();
    else if (inside) this.button.focus();
  }

  // offer takes the models that are served now.
  offer(models, fallback) {
    this.offered = models;
    this.fallback = fallback;
    this.chosen = choose(this.wished, models, fallback);
    this.#show();
  }

  set(models) {
    this.wished = models;
    this.chosen = choose(models, this.offered, this.fallback);
    try {
      localStorage.setItem(key, JSON.stringify(this.chosen));
    } catch {
      // Full or forbidden: chosen again after a reload.
    }
    this.#show();
  }

  #show() {
    const plain = this.offered.filter((m) => !m.name.includes("*"));
    const patterns = this.offered.filter((m) => m.name.includes("*"));
    this.written = [...new Set([...this.written, ...this.chosen])].filter((n) => !plain.some((m) => m.name === n));
    const rows = [...new Map(plain.map((m) => [m.name, m])).values(), ...this.written.map((name) => ({ name }))];
    const focused = this.list.contains(document.activeElement) ? document.activeElement.value : null;
    this.list.replaceChildren(...rows.map((m) => {
      const box = h("input", { type: "checkbox", value: m.name, change: () => this.#pick(m.name, box) });
      box.checked = this.chosen.includes(m.name);
      const about = [m.provider !== m.name && m.provider, m.runtime, m.reasoning && "reasoning", m.tools && "tools", m.vision && "vision"].filter(Boolean).join(" · ");
      return h("li", {}, h("label", {}, box, h("span", { class: "name" }, m.name), h("span", { class: "faint" }, about)));
    }));
    if (focused !== null) [...this.list.querySelectorAll("input")].find((b) => b.value === focused)?.focus();
    this.other.hidden = patterns.length === 0;
    setText(this.note, this.offered.length === 0 ? "No host is running yet. A question waits for one." : patterns.length ? "Also any of " + [...new Set(patterns.map((m) => m.name))].join(", ") : "");
    const seen = this.chosen.length ? named(this.chosen) : "No model";
    setText(this.button.querySelector("span"), seen);
    // Its name holds what is seen of it: https://www.w3.org/TR/WCAG22/#label-in-name
    this.button.setAttribute("aria-label", this.chosen.every((n) => seen.includes(n)) ? "Models: " + seen : seen + ": " + this.chosen.join(", "));
  }

  // pick takes a model or leaves it out, within the bounds: one at least.
  #pick(name, box) {
    const now = box.checked ? [...this.chosen, name] : this.chosen.filter((n) => n !== name);
    if (now.length === 0 || now.length > most) {
      box.checked = !box.checked;
      setText(this.note, now.length === 0 ? "One at least has to answer." : `${most} at once are the most.`);
    } else this.set(now);
  }

  #write() {
    const name = this.name.value.trim();
    if (!name) return;
    const known = this.offered.some((m) => fits(m.name, name));
    if (!known || this.chosen.length >= most) {
      setText(this.note, known ? `${most} at once are the most.` : `No host serves ${name}.`);
      return;
    }
    this.name.value = "";
    this.set([...this.chosen, name]);
  }

  #key(e) {
    const boxes = [...this.list.querySelectorAll("input")];
    const at = boxes.indexOf(e.target);
    if (e.key === "Escape") {
      e.stopPropagation();
      this.toggle(false);
      this.button.focus();
    } else if (at >= 0 && (e.key === "ArrowDown" || e.key === "ArrowUp")) {
      e.preventDefault();
      boxes[Math.max(0, Math.min(boxes.length - 1, at + (e.key === "ArrowDown" ? 1 : -1)))].focus();
    }
  }
}

function remembered() {
  try {
    const list = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

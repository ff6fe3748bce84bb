// Making elements. Text goes in as text: nothing here, and nothing elsewhere in
// the page, reads markup.

import { blocks, outlined } from "./markdown.js";

// What somebody wrote is read in the direction of its own letters: dir="auto".

// h makes an element. Properties that are functions listen to the event of that
// name; false, null and undefined leave an attribute out.
export function h(name, properties = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") e.addEventListener(key, value);
    else if (value !== false && value !== null && value !== undefined) e.setAttribute(key, value === true ? "" : String(value));
  }
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false && c !== ""));
  return e;
}

export function link(href, ...children) {
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

// setText changes a text only if it is another, so that nothing is announced or
// laid out for nothing.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function inline(nodes) {
  return nodes.map((n) => {
    if (typeof n === "string") return n;
    switch (n.type) {
      case "code": return h("code", {}, n.text);
      case "link": return link(n.href, ...inline(n.inline));
      case "image": return h("img", { src: n.href, alt: n.alt || "Image in the answer" });
      default: return h(n.type, {}, ...inline(n.inline)); // strong, em, del
    }
  });
}

function block(b) {
  switch (b.type) {
    case "p": return h("p", { dir: "auto" }, ...inline(b.inline));
    case "heading": return h("h" + (b.rank ?? Math.min(6, b.level + 2)), { dir: "auto" }, ...inline(b.inline));
    case "rule": return h("hr");
    case "code": return codeBlock(b);
    case "quote": return h("blockquote", {}, ...b.blocks.map(block));
    case "list": return h(b.ordered ? "ol" : "ul", { dir: "auto", start: b.ordered && b.first !== 1 ? b.first : null }, ...b.items.map(listItem));
    case "table": return table(b);
  }
}

function listItem(item) {
  const tight = item.blocks[0]?.type === "p" ? inline(item.blocks[0].inline) : [];
  const rest = tight.length ? item.blocks.slice(1) : item.blocks;
  const tick = item.checked === undefined ? null : h("span", { class: "tick", role: "img", "aria-label": item.checked ? "done" : "to do", "data-done": String(item.checked) });
  return h("li", { class: tick && "task" }, tick, ...tight, ...rest.map(block));
}

function codeBlock(b) {
  const name = b.language ? "Code, " + b.language : "Code";
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, b.language || "code"), h("button", { type: "button", class: "quiet", "data-copy": "code", "aria-label": "Copy this code" }, "Copy")),
    h("pre", { tabindex: 0, role: "group", "aria-label": name }, h("code", {}, b.text)));
}

function table(b) {
  const row = (cells, name) => h("tr", {}, ...cells.map((c, i) => h(name, { class: b.align[i] === "left" ? null : "to-" + b.align[i], scope: name === "th" ? "col" : null }, ...inline(c))));
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table" },
    h("table", { dir: "auto" }, h("thead", {}, row(b.head, "th")), h("tbody", {}, ...b.rows.map((r) => row(r, "td")))));
}

// Growing shows a Markdown text that grows at its end. Blocks that are finished
// are left alone; only the last is made anew, and of code only its text.
export class Growing {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.text = "";
    this.settled = 0; // where the last block begins
    this.last = null; // the last block
    this.above = []; // the headings above the last block
  }

  set(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    const open = blocks(text.slice(this.settled));
    if (open.length === 0) return;
    const from = this.settled;
    let above = this.above;
    open.forEach((b, i) => {
      this.above = above;
      if (b.type === "heading") {
        above = outlined(above, b.level);
        b.rank = Math.min(6, 2 + above.length); // below the name of the model
      }
      const before = i === 0 ? this.last : null;
      if (before && before.type === "code" && b.type === "code" && before.language === b.language) setText(this.root.lastChild.querySelector("pre code"), b.text);
      else if (before) this.root.lastChild.replaceWith(block(b));
      else this.root.append(block(b));
    });
    this.last = open.at(-1);
    this.settled = from + this.last.start;
  }
}

// copied puts a text on the clipboard and tells so on the button.
export async function copied(button, text) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed by the browser";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

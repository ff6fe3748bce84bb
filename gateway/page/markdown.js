// A small, safe rendering of Markdown. Nothing of the text is ever parsed as
// HTML: elements are made one by one, and text goes in as text. What isn't
// recognised stays as it was written.

// Longer blocks are shown as plain text: no model writes such a paragraph, and
// the patterns below would take their time.
const longest = 20000;

const inlinePattern = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|\*([^*\s](?:[^*\n]*[^*\s])?)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s()]+)\)|(https?:\/\/[^\s<>()\[\]"'`*]+[^\s<>()\[\]"'`*.,;:!?])/g;

function inline(parent, text) {
  if (text.length > longest) {
    parent.append(text);
    return;
  }
  let at = 0;
  for (const m of text.matchAll(inlinePattern)) {
    parent.append(text.slice(at, m.index));
    at = m.index + m[0].length;
    if (m[2] !== undefined) parent.append(element("code", m[2]));
    else if (m[3] !== undefined) parent.append(nested("strong", m[3]));
    else if (m[4] !== undefined) parent.append(nested("em", m[4]));
    else if (m[5] !== undefined) parent.append(anchor(m[5], m[6]));
    else parent.append(anchor(m[7], m[7]));
  }
  parent.append(text.slice(at));
}

function element(name, text) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  return e;
}

function nested(name, text) {
  const e = element(name);
  inline(e, text);
  return e;
}

function anchor(text, href) {
  const a = element("a", text);
  a.href = href; // http or https, by the pattern
  a.target = "_blank";
  a.rel = "noopener noreferrer nofollow";
  return a;
}

const fence = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const heading = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const rule = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const quote = /^ {0,3}>\s?(.*)$/;
const tableRule = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

const startsBlock = (l) => fence.test(l) || heading.test(l) || rule.test(l) || item.test(l) || quote.test(l);

// blocks cuts a text into blocks: where each begins, and how it is made.
function blocks(text) {
  const lines = text.split("\n");
  const starts = [];
  for (let i = 0, at = 0; i < lines.length; at += lines[i].length + 1, i++) starts.push(at);
  const found = [];
  let i = 0;
  const gather = (belongs) => {
    const from = i++;
    while (i < lines.length && belongs(lines[i])) i++;
    return lines.slice(from, i);
  };
  while (i < lines.length) {
    const line = lines[i];
    const start = starts[i];
    let m;
    if (line.trim() === "") {
      i++;
    } else if ((m = fence.exec(line))) {
      const body = [];
      const mark = m[1];
      for (i++; i < lines.length && !(lines[i].trim().startsWith(mark) && lines[i].trim().replaceAll(mark[0], "") === ""); i++) body.push(lines[i]);
      i++;
      found.push({ start, make: () => codeBlock(body.join("\n"), m[2]) });
    } else if ((m = heading.exec(line))) {
      i++;
      found.push({ start, make: () => nested(m[1].length < 3 ? "h3" : "h4", m[2]) });
    } else if (rule.test(line)) {
      i++;
      found.push({ start, make: () => element("hr") });
    } else if (item.test(line)) {
      // Blank lines between items belong to the list, and so do indented lines.
      const own = gather((l) => item.test(l) || /^\s{2,}\S/.test(l) || (l.trim() === "" && i + 1 < lines.length && item.test(lines[i + 1])));
      found.push({ start, make: () => list(own) });
    } else if (quote.test(line)) {
      const own = gather((l) => quote.test(l)).map((l) => quote.exec(l)[1]);
      found.push({ start, make: () => quoted(own.join("\n")) });
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].includes("|") && tableRule.test(lines[i + 1])) {
      const own = gather((l) => l.includes("|"));
      found.push({ start, make: () => table(own) });
    } else {
      const own = gather((l) => l.trim() !== "" && !startsBlock(l));
      found.push({ start, make: () => nested("p", own.join("\n")) });
    }
  }
  return found;
}

function codeBlock(body, language) {
  const pre = element("pre");
  pre.tabIndex = 0; // can be scrolled by keyboard
  pre.append(element("code", body));
  if (language) pre.setAttribute("aria-label", "Code, " + language);
  return pre;
}

function quoted(text) {
  const q = element("blockquote");
  render(q, text);
  return q;
}

function list(lines) {
  const root = document.createDocumentFragment();
  const open = []; // lists that are open, outermost first: {indent, element}
  let last = null;
  for (const line of lines) {
    const m = item.exec(line);
    if (!m) {
      if (line.trim() !== "" && last) inline(last, "\n" + line.trim());
      continue;
    }
    const indent = m[1].length;
    while (open.length > 1 && indent < open.at(-1).indent) open.pop();
    if (open.length === 0 || (indent > open.at(-1).indent + 1 && last)) {
      const ordered = /\d/.test(m[2]);
      const l = element(ordered ? "ol" : "ul");
      if (ordered && parseInt(m[2], 10) !== 1) l.start = parseInt(m[2], 10);
      (open.length === 0 ? root : last).append(l);
      open.push({ indent, element: l });
    }
    last = element("li");
    inline(last, m[3]);
    open.at(-1).element.append(last);
  }
  return root;
}

function table(lines) {
  const cells = (l) => l.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((c) => c.trim());
  const row = (l, name) => {
    const tr = element("tr");
    for (const c of cells(l)) tr.append(nested(name, c));
    return tr;
  };
  const t = element("table");
  const head = element("thead");
  head.append(row(lines[0], "th"));
  const body = element("tbody");
  for (const l of lines.slice(2)) body.append(row(l, "td"));
  t.append(head, body);
  return t;
}

export function render(parent, text) {
  for (const b of blocks(text)) parent.append(b.make());
}

// Growing renders a text that grows at its end. Blocks that are finished are
// left alone; only the last one is made anew.
export class Growing {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.text = "";
    this.settled = 0; // where the last block begins
    this.kept = 0; // child nodes of the blocks before it
  }

  set(text) {
    if (!text.startsWith(this.text)) this.clear();
    if (text === this.text) return;
    this.text = text;
    while (this.root.childNodes.length > this.kept) this.root.lastChild.remove();
    const open = blocks(text.slice(this.settled));
    const from = this.settled;
    open.forEach((b, i) => {
      if (i === open.length - 1) {
        this.settled = from + b.start;
        this.kept = this.root.childNodes.length;
      }
      this.root.append(b.make());
    });
  }
}

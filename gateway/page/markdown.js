// A small, safe reading of Markdown into plain data: what isn't recognised stays
// as it was written, and nothing is ever taken for HTML.
//
//   blocks(text) gives blocks, each with the place where it starts:
//     {type: "p", inline} {type: "heading", level, inline} {type: "rule"}
//     {type: "code", language, text, open} {type: "quote", blocks}
//     {type: "list", ordered, first, items: [{checked?, blocks}]}
//     {type: "table", align, head: [inline], rows: [[inline]]}
//   An inline is a list of texts and of
//     {type: "code", text} {type: "strong" | "em" | "del", inline}
//     {type: "link", href, inline} {type: "image", href, alt}

// Longer blocks are left as plain text: no model writes such a paragraph.
const longest = 20000;
const deepest = 8;

const fence = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const heading = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const rule = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const item = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*)|)$/;
const quote = /^ {0,3}>\s?(.*)$/;
const tableRule = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

const startsBlock = (l) => fence.test(l) || heading.test(l) || rule.test(l) || item.test(l) || quote.test(l);
const blank = (l) => l.trim() === "";
const indented = (l) => /^(?: {2}|\t)\s*\S/.test(l);

export function blocks(text, depth = 0) {
  if (depth > deepest) return text === "" ? [] : [{ type: "p", start: 0, inline: [text] }];
  const lines = text.split("\n");
  const starts = [];
  for (let i = 0, at = 0; i < lines.length; at += lines[i].length + 1, i++) starts.push(at);
  const found = [];
  for (let i = 0; i < lines.length; ) {
    if (blank(lines[i])) {
      i++;
      continue;
    }
    const [block, next] = read(lines, i, depth);
    found.push({ ...block, start: starts[i] });
    i = next;
  }
  return found;
}

// read takes the block that begins at a line, and tells where the next begins.
function read(lines, i, depth) {
  const line = lines[i];
  const gather = (belongs) => {
    let to = i + 1;
    while (to < lines.length && belongs(lines[to], to)) to++;
    return [lines.slice(i, to), to];
  };
  let m;
  if ((m = fence.exec(line))) {
    const closes = (l) => l.trim().startsWith(m[1]) && l.trim().replaceAll(m[1][0], "") === "";
    const [own, to] = gather((l) => !closes(l));
    const pad = /^ */.exec(line)[0].length;
    const body = own.slice(1).map((l) => l.slice(Math.min(pad, /^ */.exec(l)[0].length)));
    return [{ type: "code", language: m[2], text: body.join("\n"), open: to >= lines.length }, to + 1];
  }
  if ((m = heading.exec(line))) return [{ type: "heading", level: m[1].length, inline: inline(m[2]) }, i + 1];
  if (rule.test(line)) return [{ type: "rule" }, i + 1];
  if (item.test(line)) return list(lines, i, depth);
  if (quote.test(line)) {
    const [own, to] = gather((l) => quote.test(l));
    return [{ type: "quote", blocks: blocks(own.map((l) => quote.exec(l)[1]).join("\n"), depth + 1) }, to];
  }
  if (line.includes("|") && lines[i + 1]?.includes("|") && tableRule.test(lines[i + 1])) {
    const [own, to] = gather((l) => l.includes("|"));
    return [table(own), to];
  }
  const [own, to] = gather((l) => !blank(l) && !startsBlock(l));
  return [{ type: "p", inline: inline(own.join("\n")) }, to];
}

function list(lines, from, depth) {
  const first = item.exec(lines[from]);
  const base = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let i = from, offset = 0;
  for (; i < lines.length; i++) {
    const line = lines[i];
    const m = item.exec(line);
    if (m && m[1].length < base + 2) {
      if (/\d/.test(m[2]) !== ordered || (i > from && rule.test(line))) break;
      offset = m[1].length + m[2].length + 1;
      items.push([m[3] ?? ""]);
    } else if (blank(line)) {
      let next = i + 1;
      while (next < lines.length && blank(lines[next])) next++;
      if (next === lines.length || !(indented(lines[next]) || (item.test(lines[next]) && !rule.test(lines[next])))) break;
      items.at(-1).push("");
    } else if (indented(line) || m || (!startsBlock(line) && !blank(lines[i - 1]))) {
      items.at(-1).push(line.slice(Math.min(offset, /^\s*/.exec(line)[0].length)));
    } else break;
  }
  return [{
    type: "list", ordered, first: ordered ? parseInt(first[2], 10) : 1,
    items: items.map((own) => {
      const task = /^\[([ xX])\]\s+/.exec(own[0]);
      if (task) own[0] = own[0].slice(task[0].length);
      return { ...(task && { checked: task[1] !== " " }), blocks: blocks(own.join("\n"), depth + 1) };
    }),
  }, i];
}

function table(lines) {
  const head = cells(lines[0]);
  const align = cells(lines[1]).map((c) => (/^:-+:$/.test(c) ? "center" : /-:$/.test(c) ? "right" : "left"));
  const row = (l) => {
    const own = cells(l);
    return head.map((_, i) => inline(own[i] ?? ""));
  };
  return { type: "table", align: head.map((_, i) => align[i] ?? "left"), head: head.map((c) => inline(c)), rows: lines.slice(2).map(row) };
}

// cells cuts a row at its bars, but for those that are escaped or in code.
function cells(line) {
  const all = [""];
  let code = false;
  const text = line.trim().replace(/^\|/, "");
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      all[all.length - 1] += "|";
      i++;
    } else if (text[i] === "|" && !code) all.push("");
    else {
      if (text[i] === "`") code = !code && text.indexOf("`", i + 1) > 0;
      all[all.length - 1] += text[i];
    }
  }
  if (all.length > 1 && blank(all.at(-1))) all.pop();
  return all.map((c) => c.trim());
}

const plainRun = /[^\\`*_~!\[<h]+/y;
const address = /https?:\/\/[^\s<>"'`*\[\]]+/y;
const escapable = /[!-/:-@[-`{-~]/;
const word = /[\p{L}\p{N}]/u;

export function inline(text, depth = 0, links = true) {
  if (text.length > longest || depth > deepest) return [text];
  const out = [];
  let plain = "";
  const missing = new Set(); // marks that nothing closes any more
  const push = (node) => {
    if (plain) out.push(plain);
    plain = "";
    out.push(node);
  };
  for (let i = 0; i < text.length; ) {
    plainRun.lastIndex = i;
    const run = plainRun.exec(text);
    if (run) {
      plain += run[0];
      i += run[0].length;
      continue;
    }
    const found = span(text, i, depth, links, missing);
    if (found) {
      if (typeof found.node === "string") plain += found.node;
      else push(found.node);
      i = found.to;
    } else plain += text[i++];
  }
  if (plain) out.push(plain);
  return out;
}

// span reads what begins with a special character, or finds that nothing does.
function span(text, i, depth, links, missing) {
  const c = text[i];
  if (c === "\\") return i + 1 < text.length && escapable.test(text[i + 1]) ? { node: text[i + 1], to: i + 2 } : null;
  if (c === "`") return code(text, i, missing);
  if (c === "*" || c === "_" || c === "~") return emphasis(text, i, depth, links, missing);
  if (c === "!") return text[i + 1] === "[" ? image(text, i) : null;
  if (c === "[") return links ? link(text, i, depth) : null;
  if (c === "<") {
    const m = links && /^<(https?:\/\/[^\s<>]+)>/.exec(text.slice(i, i + 2048));
    return m && safe(m[1]) ? { node: { type: "link", href: safe(m[1]), inline: [m[1]] }, to: i + m[0].length } : null;
  }
  if (!links || (i > 0 && word.test(text[i - 1]))) return null;
  address.lastIndex = i;
  const m = address.exec(text);
  if (!m) return null;
  let written = m[0].replace(/[.,;:!?]+$/, "");
  let extra = written.split(")").length - written.split("(").length; // closing brackets around it, not of it
  for (; extra > 0 && written.endsWith(")"); extra--) written = written.slice(0, -1);
  const href = safe(written);
  return href ? { node: { type: "link", href, inline: [written] }, to: i + written.length } : null;
}

function code(text, i, missing) {
  const mark = /^`+/.exec(text.slice(i))[0];
  for (let j = missing.has(mark) ? -1 : text.indexOf(mark, i + mark.length); j >= 0; ) {
    let end = j + mark.length;
    if (text[end] !== "`") {
      const body = text.slice(i + mark.length, j);
      return { node: { type: "code", text: /^ .*[^ ].* $/s.test(body) ? body.slice(1, -1) : body }, to: end };
    }
    while (text[end] === "`") end++;
    j = text.indexOf(mark, end);
  }
  missing.add(mark);
  return { node: mark, to: i + mark.length };
}

function emphasis(text, i, depth, links, missing) {
  const c = text[i];
  const mark = text[i + 1] === c ? c + c : c;
  const from = i + mark.length;
  const asIs = { node: mark, to: from };
  if (mark === "~" || missing.has(mark) || from >= text.length || /\s/.test(text[from])) return asIs;
  if (c === "_" && i > 0 && word.test(text[i - 1])) return asIs;
  for (let j = text.indexOf(mark, from + 1); j >= 0; j = text.indexOf(mark, j + 1)) {
    if (mark.length === 1 && text[j + 1] === c) {
      j++; // part of a double mark
      continue;
    }
    while (mark.length === 2 && text[j + 2] === c) j++; // the inner mark closes first
    if (/\s/.test(text[j - 1]) || (c === "_" && word.test(text[j + mark.length] ?? ""))) continue;
    const type = c === "~" ? "del" : mark.length === 2 ? "strong" : "em";
    return { node: { type, inline: inline(text.slice(from, j), depth + 1, links) }, to: j + mark.length };
  }
  missing.add(mark);
  return asIs;
}

// target reads [label](address "title").
function target(text, i) {
  const bounded = text.slice(i, i + 4096);
  let open = 0, end = 0;
  for (; end < bounded.length; end++) {
    if (bounded[end] === "\\") end++;
    else if (bounded[end] === "[") open++;
    else if (bounded[end] === "]" && --open === 0) break;
  }
  if (bounded[end + 1] !== "(") return null;
  const m = /^\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\))+)>?(?:\s+"[^"]*"|\s+'[^']*')?\s*\)/.exec(bounded.slice(end + 1));
  return m && { label: bounded.slice(1, end), to: i + end + 1 + m[0].length, href: m[1] };
}

function link(text, i, depth) {
  const t = target(text, i);
  const href = t && safe(t.href);
  return href ? { node: { type: "link", href, inline: inline(t.label, depth + 1, false) }, to: t.to } : null;
}

// image knows the pictures that a text holds itself; others are shown as links,
// for they would be requests to other servers.
function image(text, i) {
  const t = target(text, i + 1);
  if (!t) return null;
  if (/^data:image\/(?:png|jpeg|gif|webp);base64,[\w+/=]+$/.test(t.href)) return { node: { type: "image", href: t.href, alt: t.label }, to: t.to };
  const href = safe(t.href);
  return href ? { node: { type: "link", href, inline: [t.label || t.href] }, to: t.to } : null;
}

// safe gives an address that may be a link: http or https, nothing else.
export function safe(address) {
  try {
    const url = new URL(address);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : "";
  } catch {
    return "";
  }
}

// outlined gives the levels of the headings that stand above what follows one of
// this level. Their number is the heading's own depth, which never skips one.
export function outlined(above, level) {
  return [...above.filter((l) => l < level), level];
}

// A line that is nothing but the beginning of something: of an item, a heading, a
// quote, a fence.
const mark = /^\s*(?:[-*+](?:[ \t]+\[[ xX]?\]?)?|#{1,6}|>|\d{1,3}[.)]?|`{1,2}|~{1,2})\s*$/;

// settled is what can be shown of a text that grows: all but an end of which only
// what follows says what it is, such as a mark without its item, or the first line
// of a table.
export function settled(text) {
  let at = text.length;
  const lineBefore = (end) => text.lastIndexOf("\n", end - 1) + 1;
  const start = lineBefore(at);
  if (mark.test(text.slice(start))) at = start;
  else {
    const whole = text.endsWith("\n");
    let from = whole ? at - 1 : at, rows = 0, top = at;
    while (rows < 3 && from >= 0) {
      const s = lineBefore(from);
      if (!/^[ \t]*\|/.test(text.slice(s, from))) break;
      rows++;
      top = s;
      from = s - 1;
    }
    if (rows === 1 || (rows === 2 && !whole)) at = top;
  }
  return at === text.length || inCode(text.slice(0, at)) ? text : text.slice(0, at);
}

// inCode tells whether a text ends within a fenced block.
function inCode(text) {
  const last = blocks(text).at(-1);
  return last?.type === "code" && !/\n[ \t]*(?:`{3,}|~{3,})[ \t]*\n*$/.test(text);
}

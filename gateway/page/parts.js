// What came beside the text of an answer, put together from its deltas.

export class Parts {
  reasoning = "";
  refusal = "";
  calls = []; // {index, id, name, arguments, end}
  sources = []; // {url, title, text, source}
  images = []; // {mediaType, data, url}
  other = []; // what only the provider understands

  static of(deltas) {
    const p = new Parts();
    for (const d of deltas) p.add(d);
    return p;
  }

  // from takes what was kept, by this or another version.
  static from(kept) {
    const p = new Parts();
    for (const name of Object.keys(p)) {
      const v = kept?.[name];
      if (typeof p[name] === "string" ? typeof v === "string" : Array.isArray(v) && v.every((x) => x !== null && typeof x === "object")) p[name] = v;
    }
    return p;
  }

  add(d) {
    switch (d.kind) {
      case "reasoning": this.reasoning += text(d.text); break;
      case "refusal": this.refusal += text(d.text); break;
      case "tool_call": this.#call(d); break;
      case "citation": this.#source(d); break;
      case "image": this.images.push({ mediaType: text(d.mediaType), data: text(d.data), url: text(d.url) }); break;
      default: this.other.push(d);
    }
  }

  #call(d) {
    let call = this.calls.findLast((c) => c.index === d.index && !c.end);
    if (!call) this.calls.push((call = { index: d.index, id: "", name: "", arguments: "", end: false }));
    call.id ||= text(d.id);
    call.name += text(d.name);
    call.arguments += text(d.arguments);
    call.end = d.end === true;
  }

  #source(d) {
    const s = { url: text(d.url), title: text(d.title), text: text(d.text), source: text(d.source) };
    const same = this.sources.find((o) => o.url === s.url && o.title === s.title && o.source === s.source);
    if (!same) this.sources.push(s);
    else if (s.text && !same.text.includes(s.text)) same.text = [same.text, s.text].filter(Boolean).join("\n");
  }

  get empty() {
    return !this.reasoning && !this.refusal && !this.calls.length && !this.sources.length && !this.images.length && !this.other.length;
  }
}

const text = (v) => (typeof v === "string" ? v : "");

// pretty lays out JSON, also one that hasn't arrived as a whole: what it gives
// for the beginning of a text is, but for its last line, the beginning of what
// it gives for all of it. What isn't JSON stays as it is.
export function pretty(json) {
  if (!/^\s*[[{]/.test(json)) return json;
  let out = "", depth = 0, inside = false, escaped = false, fresh = false;
  const line = () => "\n" + "  ".repeat(Math.min(depth, 40));
  for (const c of json) {
    if (inside) {
      out += c;
      if (escaped) escaped = false;
      else if (c === "\\") escaped = true;
      else if (c === '"') inside = false;
      continue;
    }
    if (/\s/.test(c)) continue;
    const closes = c === "}" || c === "]";
    if (closes) depth = Math.max(0, depth - 1);
    if (fresh !== closes) out += fresh || closes ? line() : "";
    fresh = false;
    if (c === "{" || c === "[") {
      depth++;
      fresh = true;
    }
    if (c === '"') inside = true;
    out += c === ":" ? ": " : c;
    if (c === ",") out += line();
  }
  return out;
}

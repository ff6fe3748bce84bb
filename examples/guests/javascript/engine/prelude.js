// What a plugin finds in its script beside the language itself. The value of this
// script is a function that glue.ts calls with the host's functions; it returns
// the function through which the host's calls come.
//
//   plugin({name, version, generate(request, emit), …})   registers the plugin
//   PluginError(kind, message, {fault, wait, status, code})
//   fetch(url, {method, headers, body})   waits; see Response
//   sleep(ms), console.debug/log/warn/error, Math.random
(function (host) {
  "use strict";
  const EIO = -5, EINVAL = -22, ECANCELED = -125;
  const write = host.w;
  let registered, code;

  // The messages of proto/provider/provider.proto: number, name, type. A name with
  // [] is repeated. Types: s string, n number, b boolean, d double, j JSON in bytes, x bytes, or a message.
  const message = (...fields) => fields;
  const model = message([1, "name", "s"], [2, "tools", "b"], [3, "vision", "b"], [4, "json", "b"], [5, "reasoning", "b"], [6, "continue", "b"], [7, "contextTokens", "n"], [8, "outputTokens", "n"]);
  const description = message([1, "name", "s"], [2, "version", "s"], [3, "sdk", "s"], [4, "models[]", model], [5, "check", "b"], [6, "countTokens", "b"], [7, "listModels", "b"], [8, "resume", "b"]);
  const reasoning = message([1, "text", "s"], [2, "signature", "s"]);
  const toolCall = message([1, "index", "n"], [2, "id", "s"], [3, "name", "s"], [4, "arguments", "s"], [5, "end", "b"]);
  const image = message([1, "mediaType", "s"], [2, "data", "x"], [3, "url", "s"], [4, "detail", "s"]);
  const providerData = message([1, "type", "s"], [2, "data", "j"]);
  const toolResult = message([1, "id", "s"], [2, "name", "s"], [3, "content", "s"], [4, "isError", "b"]);
  const citation = message([1, "url", "s"], [2, "title", "s"], [3, "text", "s"], [4, "source", "s"], [5, "start", "n"], [6, "end", "n"]);
  const usage = message([1, "input", "n"], [2, "output", "n"], [3, "reasoning", "n"], [4, "cacheRead", "n"], [5, "cacheWrite", "n"]);
  const finish = message([1, "reason", "s"], [2, "raw", "s"]);
  const part = message([1, "text", "s"], [2, "image", image], [3, "toolCall", toolCall], [4, "toolResult", toolResult], [5, "reasoning", reasoning], [6, "providerData", providerData]);
  const tool = message([1, "name", "s"], [2, "description", "s"], [3, "parameters", "j"], [4, "strict", "b"]);
  const pair = message([1, "name", "s"], [2, "value", "j"]);
  const request = message([1, "jobId", "s"], [2, "attempt", "n"], [3, "model", "s"], [4, "messages[]", message([1, "role", "s"], [2, "parts[]", part])],
    [5, "tools[]", tool], [6, "toolChoice", message([1, "mode", "s"], [2, "name", "s"])],
    [7, "responseFormat", message([1, "type", "s"], [2, "name", "s"], [3, "schema", "j"], [4, "strict", "b"])],
    [8, "temperature", "d"], [9, "topP", "d"], [10, "maxTokens", "n"], [11, "stop[]", "s"], [12, "seed", "n"], [13, "user", "s"],
    [14, "settings", "j"], [15, "options[]", pair], [16, "prefix", "s"]);
  const error = message([1, "kind", "s"], [2, "fault", "s"], [3, "message", "s"], [4, "wait", "n"], [5, "status", "n"], [6, "code", "s"]);
  const header = message([1, "name", "s"], [2, "value", "s"]);
  const httpRequest = message([1, "method", "s"], [2, "url", "s"], [3, "headers[]", header]);
  const httpHead = message([1, "status", "n"], [2, "headers[]", header]);
  const chunks = { reasoning: [2, reasoning], toolCall: [3, toolCall], refusal: [4], citation: [5, citation], image: [6, image], usage: [7, usage], finish: [8, finish], providerData: [9, providerData] };

  function decode(buffer, fields, at = 0, end = buffer.byteLength) {
    const b = new Uint8Array(buffer), view = new DataView(buffer), out = {};
    for (const [, name] of fields) if (name.endsWith("[]")) out[name.slice(0, -2)] = [];
    const varint = () => {
      // In halves, as a number holds 53 bits and a small negative one fills 64.
      let low = 0, high = 0;
      for (let i = 0; at < end && i < 10; i++) {
        const byte = b[at++];
        if (i < 4) low += (byte & 127) * 128 ** i;
        else high += (byte & 127) * 128 ** (i - 4);
        if (byte < 128) break;
      }
      high %= 2 ** 36;
      return (high >= 2 ** 35 ? high - 2 ** 36 : high) * 2 ** 28 + low;
    };
    while (at < end) {
      const tag = varint(), wire = tag % 8, field = fields.find((f) => f[0] === (tag - wire) / 8);
      let from = at, value;
      if (wire === 0) value = varint();
      else {
        const size = wire === 2 ? varint() : wire === 1 ? 8 : 4;
        from = at;
        at += size;
      }
      if (at > end) throw new Error("malformed message");
      if (!field) continue;
      const [, name, type] = field;
      if (type === "b") value = value !== 0;
      else if (type === "d") value = view.getFloat64(from, true);
      else if (type === "s") value = host.t(buffer, from, at);
      else if (type === "j") value = at > from ? JSON.parse(host.t(buffer, from, at)) : undefined;
      else if (type === "x") value = b.slice(from, at);
      else if (type !== "n") value = decode(buffer, type, from, at);
      if (name.endsWith("[]")) out[name.slice(0, -2)].push(value);
      else out[name] = value;
    }
    return out;
  }

  function encode(value, fields) {
    const out = [];
    put(value, fields, out);
    return new Uint8Array(out).buffer;
  }

  function put(value, fields, out) {
    const varint = (v) => {
      for (v = Math.max(0, Math.floor(v)); v > 127; v = Math.floor(v / 128)) out.push((v % 128) | 128);
      out.push(v);
    };
    for (const [number, name, type] of fields) {
      const many = name.endsWith("[]"), v = value[many ? name.slice(0, -2) : name];
      for (const one of many ? v ?? [] : v === undefined || v === null ? [] : [v]) {
        if (type === "n" || type === "b") {
          varint(number * 8);
          varint(Number(one));
          continue;
        }
        let b = one;
        if (type === "s") b = new Uint8Array(host.b(wellFormed(one)));
        else if (type === "j") b = new Uint8Array(host.b(JSON.stringify(one)));
        else if (type !== "x") put(one, type, (b = []));
        varint(number * 8 + 2);
        varint(b.length);
        for (const byte of b) out.push(byte);
      }
    }
  }

  const wellFormed = (text) => String(text).toWellFormed();

  class PluginError extends Error {
    // Kinds and faults are those of message Error; wait is in milliseconds.
    constructor(kind, message, more = {}) {
      super(message);
      Object.assign(this, { kind, wait: more.wait, status: more.status, code: more.code });
      this.fault = more.fault ?? { invalid: "caller", refused: "caller", internal: "plugin" }[kind] ?? "upstream";
    }
  }

  class Unwanted extends Error {} // nobody wants the answer any more

  function check(errno) {
    if (typeof errno !== "number" || errno >= 0) return errno;
    if (errno === ECANCELED) throw new Unwanted("nobody wants the answer any more");
    const why = errno === EIO && decode(host.x(), error);
    if (why && why.kind) throw new PluginError(why.kind, why.message, why);
    throw new Error(`the host refused it: errno ${-errno}`);
  }

  const MOST = 200_000; // characters of one emit: 1 MiB holds as many, whatever they are

  // emit("text"), or emit({reasoning: {text}}), emit({usage: {input, output}}), emit({finish: {reason}}), …
  function emit(chunk) {
    if (typeof chunk === "string") {
      if (chunk.length > MOST || write(chunk) !== 0) emitText(1, chunk);
      return;
    }
    for (const name in chunk) {
      const [kind, fields] = chunks[name] ?? [];
      if (!kind) throw new TypeError(`there is no chunk called ${name}`);
      if (fields) check(host.e(kind, encode(chunk[name], fields)));
      else emitText(kind, chunk[name]);
    }
  }

  function emitText(kind, text) {
    let errno = text.length > MOST ? EINVAL : host.e(kind, text);
    if (errno !== EINVAL) return check(errno);
    text = wellFormed(text); // half a character is none
    for (let at = 0; at < text.length; ) {
      let end = Math.min(at + MOST, text.length);
      if ((text.charCodeAt(end - 1) & 0xfc00) === 0xd800) end--; // not within a character
      check(host.e(kind, text.slice(at, end)));
      at = end;
    }
  }

  class Response {
    constructor(handle) {
      this.handle = handle;
      const head = decode(check(host.H(handle)), httpHead);
      this.status = head.status;
      this.ok = head.status >= 200 && head.status < 300;
      this.headers = Object.fromEntries(head.headers.map((h) => [h.name, h.value])); // names in lower case
    }
    /** The next bytes of the body, or null at its end. */
    read() {
      const b = check(host.r(this.handle));
      return b.byteLength > 0 ? b : null;
    }
    /** The lines of the body, as they come. */
    *lines() {
      let rest = new Uint8Array(0);
      for (let b; (b = this.read()); ) {
        const all = new Uint8Array(rest.length + b.byteLength);
        all.set(rest);
        all.set(new Uint8Array(b), rest.length);
        let from = 0;
        for (let to; (to = all.indexOf(10, Math.max(from, rest.length))) >= 0; from = to + 1) {
          yield host.t(all.buffer, from, all[to - 1] === 13 && to > from ? to - 1 : to);
          rest = new Uint8Array(0);
        }
        rest = all.slice(from);
      }
      if (rest.length > 0) yield host.t(rest.buffer, 0, rest.length);
    }
    text() {
      const pieces = [];
      for (let b; (b = this.read()); ) for (const byte of new Uint8Array(b)) pieces.push(byte);
      return host.t(new Uint8Array(pieces).buffer, 0, pieces.length);
    }
    json() { return JSON.parse(this.text()); }
    close() { host.c(this.handle); }
  }

  // Header values may hold ${secret:NAME}: the host fills it in.
  function fetch(url, { method = "GET", headers = {}, body = "" } = {}) {
    const meta = { method, url, headers: Object.entries(headers).map(([name, value]) => ({ name, value })) };
    return new Response(check(host.h(encode(meta, httpRequest), typeof body === "string" ? host.b(wellFormed(body)) : body)));
  }

  const say = (level) => (...what) => void host.l(level, wellFormed(what.map((w) => (typeof w === "string" ? w : w instanceof Error ? `${w}\n${w.stack}` : JSON.stringify(w))).join(" ")));
  Object.assign(globalThis, {
    fetch, PluginError,
    sleep(ms) { if (ms > 0) host.s(ms); },
    plugin(p) { registered = p; },
    console: { debug: say(0), log: say(1), info: say(1), warn: say(2), error: say(3) },
  });
  // Jobs begin as copies of one memory, and must not draw the same numbers.
  Math.random = () => host.n();

  function readRequest() {
    const r = decode(host.i(), request);
    r.options = Object.fromEntries(r.options.map((o) => [o.name, o.value]));
    r.settings ??= {};
    const last = r.messages.findLast((m) => m.role === "user");
    r.prompt = last ? last.parts.map((p) => p.text ?? "").join("") : "";
    return r;
  }

  const result = (value, fields) => void host.o(0, encode(value, fields));
  const calls = {
    1: () => result({ sdk: "javascript", ...registered, check: !!registered.check, countTokens: !!registered.countTokens, resume: !!registered.resume }, description),
    2: () => registered.check?.(decode(host.i(), message([1, "json", "j"])).json ?? {}),
    3: () => registered.generate(readRequest(), emit),
    4: () => registered.resume(readRequest(), emit),
    5: () => {
      const done = (tokens) => result({ tokens }, message([1, "tokens", "n"]));
      const n = registered.countTokens(readRequest());
      return n?.then ? n.then(done) : done(n);
    },
  };

  function end(e) {
    if (e instanceof Unwanted) return (code = ECANCELED);
    const meant = e instanceof PluginError;
    if (!meant) console.error(e);
    host.o(1, encode(meant ? { ...e, message: e.message } : { kind: "internal", fault: "plugin", message: String(e) }, error));
    code = 1;
  }

  return function (what) {
    if (what === 0) { // what came of the call before, now that there is nothing left to wait for
      if (code === undefined) end(new Error("the plugin's promise was never settled"));
      return code;
    }
    code = undefined;
    try {
      if (!registered) throw new Error("the script has not called plugin()");
      const r = calls[what]();
      if (typeof r?.then === "function") r.then(() => (code = 0), end);
      else code = 0;
    } catch (e) {
      end(e);
    }
    return 0;
  };
});

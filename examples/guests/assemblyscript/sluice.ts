// What a Sluice guest in AssemblyScript needs: the host's functions, a reader
// for the parts of a request, and writers for what comes back.
//
// An instance serves one call and is thrown away. The ABI is documented in
// proto/guest, the messages in proto/provider/provider.proto. Functions return
// 0 or more, or a negative errno, which an export may return as it is.

@external("sluice_v1", "input_len") declare function input_len(): i32;
@external("sluice_v1", "input_read") declare function input_read(p: usize, n: u32): i32;
@external("sluice_v1", "output") declare function output(kind: u32, p: usize, n: u32): i32;
@external("sluice_v1", "emit") declare function host_emit(kind: u32, p: usize, n: u32): i32;
@external("sluice_v1", "http_open") declare function http_open(meta: usize, n: u32, body: usize, m: u32): i32;
@external("sluice_v1", "http_head") declare function http_head(h: i32, p: usize, n: u32): i32;
@external("sluice_v1", "http_read") declare function http_read(h: i32, p: usize, n: u32): i32;
@external("sluice_v1", "http_close") declare function http_close(h: i32): i32;
@external("sluice_v1", "last_error") declare function last_error(p: usize, n: u32): i32;
@external("sluice_v1", "log") declare function host_log(level: u32, p: usize, n: u32): i32;
@external("wasi_snapshot_preview1", "poll_oneoff") declare function poll_oneoff(subs: usize, events: usize, n: u32, count: usize): i32;

export const TEXT: u32 = 1, REASONING: u32 = 2, TOOL_CALL: u32 = 3, REFUSAL: u32 = 4, USAGE: u32 = 7, FINISH: u32 = 8; // kinds of emit

export function sluice_abi(): i32 {
  return 1 << 16;
}

/** The compiler calls it where a program can't go on; a trap has no text. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = encode(`${message ? message : "abort"} in ${file ? file : "?"}:${line}:${column}`);
  host_log(3, changetype<usize>(text), text.byteLength);
  unreachable();
}

// What comes back.

/** resumes: whether there is an export sluice_resume. */
export function describe(name: string, version: string, resumes: bool): i32 {
  const m = new Message();
  m.text(1, name);
  m.text(2, version);
  m.text(3, "assemblyscript");
  m.number(5, 1); // sluice_configure checks
  m.number(8, resumes);
  return output(0, m.data, m.length);
}

/**
 * Ends a call: `return fail(…)`. Kinds and faults are those of message Error; an
 * empty fault is the kind's usual one.
 */
export function fail(kind: string, fault: string, message: string, waitMs: u64 = 0, status: u64 = 0, code: string = ""): i32 {
  const m = new Message();
  m.text(1, kind);
  m.text(2, fault);
  m.text(3, message);
  m.number(4, waitMs);
  m.number(5, status);
  m.text(6, code);
  output(1, m.data, m.length);
  return 1;
}

export function invalid(why: string): i32 {
  return fail("invalid", "caller", why);
}

/** Text in UTF-8, see encode: what is emitted more than once is encoded once. */
export function emitText(utf8: ArrayBuffer): i32 {
  return host_emit(TEXT, changetype<usize>(utf8), utf8.byteLength);
}

export function emitRefusal(utf8: ArrayBuffer): i32 {
  return host_emit(REFUSAL, changetype<usize>(utf8), utf8.byteLength);
}

export function emitReasoning(text: string, signature: string): i32 {
  const m = new Message();
  m.text(1, text);
  m.text(2, signature);
  return host_emit(REASONING, m.data, m.length);
}

/** Begins a tool call with its id and name, goes on with pieces of its arguments, and ends it. */
export function emitToolCall(id: string, name: string, args: string, end: bool): i32 {
  const m = new Message();
  m.text(2, id);
  m.text(3, name);
  m.text(4, args);
  m.number(5, end);
  return host_emit(TOOL_CALL, m.data, m.length);
}

/** Tokens; reasoning is how many of the output were. */
export function emitUsage(input: u64, output: u64, reasoning: u64): i32 {
  const m = new Message();
  m.number(1, input);
  m.number(2, output);
  m.number(3, reasoning);
  return host_emit(USAGE, m.data, m.length);
}

export function emitFinish(reason: string): i32 {
  const m = new Message();
  m.text(1, reason);
  m.text(2, reason);
  return host_emit(FINISH, m.data, m.length);
}

export function encode(s: string): ArrayBuffer {
  return String.UTF8.encode(s);
}

/** Waits for so many milliseconds, or until nobody wants the answer. */
export function pause(ms: u64): void {
  if (ms == 0) return;
  const s = new StaticArray<u64>(11); // a subscription, an event, a count
  s[2] = 1; // the monotonic clock
  s[3] = ms * 1_000_000; // from now
  const p = changetype<usize>(s);
  poll_oneoff(p, p + 48, 1, p + 80);
}

/** Ends a call over what an import returned, with the host's Error if there is one. */
export function failed(result: i32): i32 {
  const e = new ArrayBuffer(16 << 10);
  const n = result == -5 /* EIO */ ? last_error(changetype<usize>(e), e.byteLength) : 0;
  if (n <= 0) return result;
  output(1, changetype<usize>(e), n);
  return 1;
}

/** The response to a request. If error is negative there is none: `return failed(response.error)`. */
export class Response {
  error: i32 = 0;
  status: u64 = 0;
  private handle: i32;
  private piece: ArrayBuffer = new ArrayBuffer(64 << 10);

  /** Sends a request; headers are names and values in turn. A value may hold ${secret:NAME}: the host fills it in. */
  constructor(method: string, url: string, headers: string[], body: string) {
    const m = new Message(), utf8 = encode(body);
    m.text(1, method);
    m.text(2, url);
    for (let i = 0; i + 1 < headers.length; i += 2) {
      const h = new Message();
      h.text(1, headers[i]);
      h.text(2, headers[i + 1]);
      m.message(3, h);
    }
    this.handle = http_open(m.data, m.length, changetype<usize>(utf8), utf8.byteLength);
    this.error = min(this.handle, 0);
    const at = changetype<usize>(this.piece);
    const n = this.error < 0 ? 0 : http_head(this.handle, at, this.piece.byteLength);
    for (const head = new Fields(this.piece, at, at + max(n, 0)); head.next(); ) if (head.number == 1) this.status = head.value;
  }

  /** The next bytes of the body: null at its end, or when error is negative. */
  read(): ArrayBuffer | null {
    const n = http_read(this.handle, changetype<usize>(this.piece), this.piece.byteLength);
    this.error = min(n, 0);
    return n > 0 ? this.piece.slice(0, n) : null;
  }

  close(): void {
    http_close(this.handle);
  }
}

// The request.

export class Request {
  prompt: string = ""; // the text of the last message of the user
  maxTokens: u64 = 0; // 0: no limit
  settings: string = "{}"; // a JSON object
  prefix: string = ""; // what a resumed answer goes on after
  private options: Map<string, string> = new Map(); // JSON values

  constructor() {
    for (const f = input(); f.next(); ) {
      if (f.number == 4 && text(f.bytes(), 1) == "user") {
        this.prompt = "";
        for (const part = f.bytes(); part.next(); ) if (part.number == 2) this.prompt += text(part.bytes(), 1);
      } else if (f.number == 10) this.maxTokens = f.value;
      else if (f.number == 14) this.settings = f.text();
      else if (f.number == 15) this.options.set(text(f.bytes(), 1), text(f.bytes(), 2));
      else if (f.number == 16) this.prefix = f.text();
    }
  }

  /** A JSON value, or "" if there is none. */
  option(name: string): string {
    return this.options.has(name) ? this.options.get(name) : "";
  }

  /** An option that isn't false. */
  wanted(name: string): string {
    const json = this.option(name);
    return json == "false" ? "" : json;
  }
}

/** Cuts text into pieces of about n bytes, and no character apart. */
export function pieces(text: string, n: i32): Array<string> {
  const pieces = new Array<string>(), utf8 = encode(text);
  for (let at = 0; at < utf8.byteLength; ) {
    const from = at;
    at = min(at + n, utf8.byteLength);
    while (at < utf8.byteLength && (load<u8>(changetype<usize>(utf8) + at) & 0xc0) == 0x80) at++;
    pieces.push(String.UTF8.decodeUnsafe(changetype<usize>(utf8) + from, at - from));
  }
  return pieces;
}

/** The settings that a call of sluice_configure is about: a JSON object. */
export function settings(): string {
  return text(input(), 1);
}

/** The JSON value of a member of a JSON object, or "". */
export function member(object: string, name: string): string {
  let depth = 0, start = 0, key = "";
  for (let i = 0; i < object.length; i++) {
    const c = object.charCodeAt(i);
    if (c == 0x22 /* " */) {
      const from = ++i;
      for (; i < object.length && object.charCodeAt(i) != 0x22; i++) if (object.charCodeAt(i) == 0x5c /* \ */) i++;
      if (depth == 1 && start == 0) key = object.substring(from, i);
    } else if (c == 0x3a /* : */ && depth == 1) start = i + 1;
    else if (c == 0x7b /* { */ || c == 0x5b /* [ */) depth++;
    else if (c == 0x7d /* } */ || c == 0x5d /* ] */ || c == 0x2c /* , */) {
      if (depth == 1 && start > 0 && key == name) return object.substring(start, i).trim();
      if (depth == 1) start = 0;
      if (c != 0x2c) depth--;
    }
  }
  return "";
}

/** What a JSON string says, or "" if it isn't one. */
export function unquote(json: string): string {
  if (json.charCodeAt(0) != 0x22 /* " */) return "";
  let out = "";
  for (let i = 1; i < json.length - 1; i++) {
    let c = json.charCodeAt(i);
    if (c == 0x5c /* \ */) {
      c = json.charCodeAt(++i);
      switch (c) {
        case 0x62: c = 0x08; break; // b
        case 0x66: c = 0x0c; break; // f
        case 0x6e: c = 0x0a; break; // n
        case 0x72: c = 0x0d; break; // r
        case 0x74: c = 0x09; break; // t
        case 0x75: c = <i32>parseInt(json.substr(i + 1, 4), 16); i += 4; // u
      }
    }
    out += String.fromCharCode(c);
  }
  return out;
}

/** Reads a JSON number that is whole and not negative; -1 if it is something else. */
export function whole(json: string, otherwise: i64): i64 {
  if (json == "") return otherwise;
  if (json.length > 9) return -1;
  for (let i = 0; i < json.length; i++) if (json.charCodeAt(i) < 48 || json.charCodeAt(i) > 57) return -1;
  return I64.parseInt(json);
}

function space(c: i32): bool {
  return c == 0x20 || c == 0x09 || c == 0x0d || c == 0x0a;
}

/** Cuts text into words, each with the space before it. */
export function split(text: string): Array<string> {
  const words = new Array<string>();
  for (let at = 0; at < text.length; ) {
    const from = at;
    while (at < text.length && space(text.charCodeAt(at))) at++;
    while (at < text.length && !space(text.charCodeAt(at))) at++;
    words.push(text.substring(from, at));
  }
  return words;
}

// Protobuf: https://protobuf.dev/programming-guides/encoding/

function input(): Fields {
  const b = new ArrayBuffer(input_len());
  input_read(changetype<usize>(b), b.byteLength);
  return new Fields(b, changetype<usize>(b), changetype<usize>(b) + b.byteLength);
}

function text(message: Fields, number: u64): string {
  let found = "";
  while (message.next()) if (message.number == number) found = message.text();
  return found;
}

/** The fields of a message, one after the other. */
class Fields {
  number: u64 = 0;
  value: u64 = 0; // of a varint field
  private from: usize = 0; // the bytes of any other
  private size: u64 = 0;

  constructor(private owner: ArrayBuffer, private at: usize, private end: usize) {}

  next(): bool {
    if (this.at >= this.end) return false;
    const tag = this.varint();
    this.number = tag >> 3;
    this.size = 0;
    switch (<i32>(tag & 7)) {
      case 0: this.value = this.varint(); break;
      case 1: this.size = 8; break;
      case 2: this.size = this.varint(); break;
      case 5: this.size = 4; break;
      default: return false;
    }
    if (this.size > <u64>(this.end - this.at)) return false;
    this.from = this.at;
    this.at += <usize>this.size;
    return true;
  }

  bytes(): Fields {
    return new Fields(this.owner, this.from, this.from + <usize>this.size);
  }

  text(): string {
    return String.UTF8.decodeUnsafe(this.from, <usize>this.size);
  }

  private varint(): u64 {
    let v: u64 = 0;
    for (let shift: u64 = 0; this.at < this.end && shift < 64; shift += 7) {
      const b = load<u8>(this.at++);
      v |= <u64>(b & 0x7f) << shift;
      if (b < 0x80) break;
    }
    return v;
  }
}

/** A message that is being written. */
class Message {
  private b: Array<u8> = [];

  get data(): usize { return this.b.dataStart; }
  get length(): u32 { return this.b.length; }

  number(number: u64, v: u64): void {
    this.varint(number << 3);
    this.varint(v);
  }

  text(number: u64, s: string): void {
    const utf8 = Uint8Array.wrap(encode(s));
    this.varint((number << 3) | 2);
    this.varint(utf8.length);
    for (let i = 0; i < utf8.length; i++) this.b.push(utf8[i]);
  }

  message(number: u64, m: Message): void {
    this.varint((number << 3) | 2);
    this.varint(m.length);
    for (let i = 0; i < m.b.length; i++) this.b.push(m.b[i]);
  }

  private varint(v: u64): void {
    for (; v > 0x7f; v >>= 7) this.b.push(<u8>v | 0x80);
    this.b.push(<u8>v);
  }
}

// What needs no gateway: digests, storages, questions.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { SluiceError, memoryStorage, webStorage } from "../lib/index.js";
import { digest, sha256 } from "../lib/digest.js";
import { errorFrom } from "../lib/errors.js";
import { deltaFrom } from "../lib/events.js";
import { newJobId, payloadOf } from "../lib/questions.js";

test("SHA-256 without the platform is SHA-256", () => {
  for (const size of [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 100_003]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => (i * 31 + size) & 255);
    assert.equal(Buffer.from(sha256(bytes)).toString("hex"), createHash("sha256").update(bytes).digest("hex"), `${size} bytes`);
  }
});

test("a digest is the same with and without crypto.subtle", async () => {
  const text = "Grüße, 世界 🌊".repeat(100);
  const want = createHash("sha256").update(text).digest("hex");
  assert.equal(await digest(text), want);
  const own = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  try {
    assert.equal(await digest(text), want);
    assert.match(newJobId(), /^js-[0-9a-f]{32}$/);
  } finally {
    if (own) Object.defineProperty(globalThis, "crypto", own);
    else delete globalThis.crypto;
  }
});

const saved = (jobId, more = {}) => ({
  jobId, user: "u", created: 1, query: "q", state: "running", seq: 3, attempt: 1, text: "abc", deltas: [], provider: "p", model: "m", ...more,
});

class Web {
  items = new Map();
  get length() { return this.items.size; }
  key(i) { return [...this.items.keys()][i] ?? null; }
  getItem(k) { return this.items.get(k) ?? null; }
  setItem(k, v) { this.items.set(k, v); }
  removeItem(k) { this.items.delete(k); }
}

test("storages keep what they are given", () => {
  for (const [name, storage] of [["memory", memoryStorage()], ["web", webStorage(new Web())]]) {
    const first = saved("a"), second = saved("b", { created: 2, key: "chat", request: { query: "q" } });
    storage.save(second);
    storage.save(first);
    storage.save({ ...first, text: "abcd" });
    assert.deepEqual(storage.load().sort((a, b) => a.created - b.created), [{ ...first, text: "abcd" }, second], name);
    storage.remove("a");
    storage.remove("never there");
    assert.deepEqual(storage.load(), [second], name);
  }
});

test("a storage passes over what it didn't write", () => {
  const web = new Web();
  const storage = webStorage(web, "x.");
  storage.save(saved("good"));
  web.setItem("x.bad", "{");
  web.setItem("x.null", "null");
  web.setItem("x.list", "[]");
  web.setItem("x.other", JSON.stringify(saved("another")));
  web.setItem("x.seq", JSON.stringify(saved("seq", { seq: -1 })));
  web.setItem("x.deltas", JSON.stringify(saved("deltas", { deltas: null })));
  web.setItem("y.foreign", JSON.stringify(saved("foreign")));
  assert.deepEqual(storage.load(), [saved("good")]);
});

test("questions become payloads", () => {
  assert.deepEqual(payloadOf("Why?", { model: "echo", key: "k", jobId: "j" }).payload, { query: "Why?", model: "echo" });
  const messages = [{ role: "user", content: "one" }, { role: "assistant", content: "two" }, { role: "user", content: [{ type: "text", text: "three" }] }];
  const asked = payloadOf({ messages, params: { temperature: 0 } }, {});
  assert.deepEqual(asked.payload, { messages, params: { temperature: 0 } });
  assert.equal(asked.query, "three");
  assert.notEqual(newJobId(), newJobId());
});

test("errors are made of whatever is said", () => {
  for (const said of [undefined, null, "no", 7, [], {}, { code: 7 }]) {
    const e = errorFrom(said);
    assert.ok(e instanceof SluiceError && e instanceof Error);
    assert.equal(e.code, "internal");
  }
  const e = errorFrom({ code: "rate_limited", message: "slow down", retryAfterMs: 1500 });
  assert.deepEqual([e.code, e.message, e.retryable, e.retryAfterMs], ["rate_limited", "slow down", true, 1500]);
  assert.deepEqual(JSON.parse(JSON.stringify(errorFrom({ code: "x", message: "m", retryable: true, fault: "plugin" }))), { name: "SluiceError", code: "x", message: "m", retryable: true, fault: "plugin" });
  assert.equal(errorFrom({ code: "query_missing" }).fault, "caller");
  assert.equal(errorFrom({ code: "unavailable" }).fault, "host");
});

test("deltas lose their head, and unknown kinds are told apart", () => {
  const head = { jobId: "j", userId: "u", attempt: 1, seq: 2 };
  assert.deepEqual(deltaFrom({ ...head, kind: "tool_call", index: 0, name: "f", arguments: "{}" }), { kind: "tool_call", index: 0, name: "f", arguments: "{}" });
  assert.deepEqual(deltaFrom({ ...head, kind: "smell", of: "roses" }), { kind: "unknown", name: "smell", data: { of: "roses" } });
});

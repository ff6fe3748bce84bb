// Tests of job.js, run by page_test.go with Node.

import assert from "node:assert/strict";
import test from "node:test";

const store = new Map();
globalThis.localStorage = { getItem: (k) => store.get(k) ?? null, setItem: (k, v) => store.set(k, v) };
globalThis.addEventListener = () => {};
globalThis.document = { addEventListener() {}, hidden: false };

const { Job, Shelf, newID } = await import(process.env.JOB_JS);

const start = (seq, attempt, reset) => ["model:start:v1", { seq, attempt, reset, provider: "p", model: "m" }];
const chunk = (seq, text, from) => ["model:chunk:v1", { seq, attempt: 1, chunk: text, ...(from && { fromSeq: from }) }];

test("frames are taken once and in order", () => {
  const j = new Job({ id: "j", query: "q" });
  assert.equal(j.apply(...start(1, 1, false)), "new");
  assert.equal(j.apply(...chunk(2, "a")), "new");
  assert.equal(j.apply(...chunk(2, "a")), "old");
  assert.equal(j.apply(...chunk(4, "c")), "gap");
  assert.equal(j.apply(...chunk(3, "b")), "new");
  assert.equal(j.apply(...chunk(4, "c")), "new");
  assert.equal(j.apply(...chunk(9, "defgh", 5)), "new"); // merged chunks
  assert.equal(j.apply(...chunk(12, "x", 11)), "gap");
  assert.deepEqual([j.text, j.seq, j.state], ["abcdefgh", 9, "running"]);
});

test("a reset drops the text of the attempt before", () => {
  const j = new Job({ id: "j" });
  j.apply(...start(1, 1, false));
  j.apply(...chunk(2, "half"));
  j.apply("model:delta:v1", { seq: 3, kind: "reasoning", text: "hm" });
  j.apply(...start(4, 2, true));
  assert.deepEqual([j.text, j.reasoning, j.attempt], ["", "", 2]);
  j.apply(...start(5, 3, false));
  j.apply(...chunk(6, "x"));
  assert.equal(j.text, "x");
});

test("deltas", () => {
  const j = new Job({ id: "j" });
  let seq = 0;
  const delta = (d) => j.apply("model:delta:v1", { jobId: "j", userId: "u", attempt: 1, seq: ++seq, ...d });
  delta({ kind: "reasoning", text: "a" });
  delta({ kind: "reasoning", text: "b", signature: "s" });
  delta({ kind: "tool_call", index: 0, id: "1", name: "f", arguments: "{" });
  delta({ kind: "tool_call", index: 1, id: "2", name: "g", arguments: "" });
  delta({ kind: "tool_call", index: 0, arguments: "}", end: true });
  delta({ kind: "tool_call", index: 1, arguments: "{}", end: true });
  delta({ kind: "refusal", text: "no" });
  delta({ kind: "refusal", text: "pe" });
  delta({ kind: "citation", url: "https://x", start: 0, end: 1 });
  assert.equal(j.reasoning, "ab");
  assert.deepEqual(j.extras.map((e) => [e.kind, e.name ?? e.text ?? e.url, e.arguments]), [
    ["tool_call", "f", "{}"], ["tool_call", "g", "{}"], ["refusal", "nope", undefined], ["citation", "https://x", undefined],
  ]);
});

const complete = (seq, text, digest) => ["model:complete:v1", { seq, attempt: 1, text, tokens: 1, digest }];

test("the digest is checked", async () => {
  for (const [streamed, text, digest, want] of [
    ["abc", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "equal"],
    ["abc", "abc", "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD", "equal"],
    ["abc", "abc", "00", "different"],
    ["ab", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "repaired"],
    ["abc", "abc", undefined, null],
  ]) {
    const j = new Job({ id: "j" });
    j.apply(...chunk(1, streamed));
    const checked = new Promise((done) => (j.checked = done));
    j.apply(...complete(2, text, digest));
    if (want === "equal" || want === "different") await checked;
    assert.deepEqual([j.verified, j.text, j.state], [want, "abc", "complete"]);
  }
});

test("how it ends", () => {
  const failed = new Job({ id: "j" });
  failed.apply("model:error:v1", { seq: 1, code: "c", message: "m", retryable: true, fault: "upstream" });
  assert.deepEqual([failed.state, failed.done, failed.error.fault], ["failed", true, "upstream"]);
  const cancelled = new Job({ id: "j" });
  cancelled.apply("task:cancelled", { seq: 1, text: "so far", tokens: 2 });
  assert.deepEqual([cancelled.state, cancelled.text], ["cancelled", "so far"]);
});

test("the shelf outlives a reload, and tabs share it", () => {
  const a = new Shelf();
  const b = new Shelf();
  const j = new Job({ id: "j1", user: "u", query: "q", created: 1 });
  a.add(j);
  b.add(new Job({ id: "j2", user: "u", query: "q", created: 2 }));
  j.apply(...chunk(1, "text"));
  a.write();
  b.write(); // b knows nothing of j1, and leaves it as it is
  const again = new Shelf();
  assert.deepEqual(again.of("u").map((x) => [x.id, x.text, x.seq]), [["j2", "", 0], ["j1", "text", 1]]);
  assert.deepEqual(again.of("somebody else"), []);
  again.remove(again.jobs.get("j1"));
  assert.deepEqual(new Shelf().of("u").map((x) => x.id), ["j2"]);
});

test("a broken or full storage is no obstacle", () => {
  for (const broken of ["{", "null", "7", '{"a":1}', '[null,7,{"id":5},{"id":"ok","text":"t"}]']) {
    store.set("sluice.jobs.v1", broken);
    assert.ok(new Shelf().of("u").length <= 1);
  }
  store.clear();
  const shelf = new Shelf();
  for (let i = 0; i < 60; i++) shelf.add(new Job({ id: "j" + i, created: i, text: "x".repeat(100_000) }));
  const kept = JSON.parse(store.get("sluice.jobs.v1"));
  assert.ok(kept.length >= 10 && kept.length <= 20, String(kept.length));
  assert.equal(kept[0].id, "j59");
});

test("ids can be stored", () => {
  assert.match(newID(), /^[A-Za-z0-9_.:-]{1,128}$/);
  assert.notEqual(newID(), newID());
});

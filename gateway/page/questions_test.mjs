// Tests of questions.js, parts.js, picker.js and words.js, run by page_test.go
// with Node.

import assert from "node:assert/strict";
import test from "node:test";
import { Parts, pretty } from "./parts.js";
import { choose, fits } from "./picker.js";
import { Column, History, Question, jobID, newQuestionID, placeOf } from "./questions.js";
import * as words from "./words.js";

// storage is a Web Storage with a limit.
function storage(limit = Infinity) {
  const m = new Map();
  return {
    get length() { return m.size; },
    key: (i) => [...m.keys()][i] ?? null,
    getItem: (k) => m.get(k) ?? null,
    removeItem: (k) => void m.delete(k),
    setItem(k, v) {
      if ([...m].reduce((n, [key, value]) => n + (key === k ? 0 : value.length), v.length) > limit) throw new Error("full");
      m.set(k, v);
    },
  };
}

// Told stands for an answer of the client.
class Told {
  state = "sending";
  text = "";
  attempt = 0;
  provider = "";
  model = "";
  error = null;
  deltas = [];
  #on = {};
  on(event, f) {
    (this.#on[event] ??= new Set()).add(f);
    return () => this.#on[event].delete(f);
  }
  get over() { return ["complete", "failed", "cancelled"].includes(this.state); }
  snapshot() { return { deltas: this.deltas }; }
  emit(event, value) {
    for (const f of this.#on[event] ?? []) f(value);
  }
  be(fields, ...events) {
    Object.assign(this, fields);
    for (const [event, value] of events) this.emit(event, value);
    this.emit("change");
  }
}

const ask = (h, n, models, fields = {}) => {
  const q = new Question({ id: newQuestionID(), user: "u", query: "q" + n, created: n, ...fields });
  models.forEach((model, i) => q.put(new Column({ jobId: jobID(q.id, i + 1), model })));
  h.add(q);
  return q;
};

const saved = (c, fields = {}) => ({ jobId: c.jobId, user: "u", created: 1, query: "q", state: "running", seq: 3, attempt: 1, text: "so far", deltas: [{ kind: "reasoning", text: "hm" }], provider: "p", model: "served", ...fields });

test("ids tell the question, the place and the try", () => {
  const id = newQuestionID();
  assert.match(jobID(id, 2, 3), /^[A-Za-z0-9_.:-]{1,128}$/);
  assert.deepEqual(placeOf(jobID(id, 2)), { question: id, place: 2, tried: 1 });
  assert.deepEqual(placeOf(jobID(id, 2, 3)), { question: id, place: 2, tried: 3 });
  assert.deepEqual(placeOf("js-1"), { question: "js-1", place: 1, tried: 1 });
});

test("columns are in the order of their places, and a new try takes the place", () => {
  const q = new Question({ id: newQuestionID() });
  for (const id of [jobID(q.id, 2), jobID(q.id, 1), jobID(q.id, 3), jobID(q.id, 2, 2)]) q.put(new Column({ jobId: id }));
  assert.deepEqual(q.columns.map((c) => placeOf(c.jobId)), [[1, 1], [2, 2], [3, 1]].map(([place, tried]) => ({ question: q.id, place, tried })));
});

test("a column follows its answer", () => {
  const c = new Column({ jobId: "j", model: "m" }), a = new Told();
  let changes = 0;
  c.follow(a, () => changes++);
  a.be({ state: "queued" }, ["progress", { status: "queued", message: "3 jobs are ahead", position: 4 }]);
  assert.deepEqual([c.state, words.status(c, ""), words.queue([c, new Column({ jobId: "k", state: "queued" })])], ["queued", "3 jobs are ahead", "no. 4 in the queue"]);
  a.be({ state: "running", attempt: 1, provider: "p", model: "served" }, ["start", {}]);
  assert.deepEqual([words.status(c, ""), words.queue([c])], ["Waiting for the first words", ""]);
  a.be({}, ["progress", { status: "waiting", message: "waiting for the model" }]);
  assert.equal(words.status(c, ""), "Waiting for the model");
  a.be({}, ["delta", { kind: "reasoning", text: "one two" }]);
  assert.equal(words.status(c, ""), ""); // the fold says it
  assert.match(words.reasoning(c, Date.now() + 3000), /^Thinking · 3 s · 2 words$/);
  a.be({ text: "half" }, ["text", "half"]);
  assert.ok(c.thought.ms >= 1);
  for (const status of ["limited", "retrying"]) {
    a.be({ state: "waiting" }, ["progress", { status, message: "the provider is not available; trying again in 8s" }]);
    assert.equal(words.status(c, ""), "The provider is not available; trying again in 8s");
  }
  a.be({ text: "", attempt: 2, state: "running" }, ["start", {}], ["reset", { reason: "attempt" }]);
  assert.deepEqual([c.text, c.parts.reasoning, c.thought], ["", "", null]);
  assert.match(words.attempts(c), /^Attempt 2: .* began again/);
  a.be({ text: "whole", state: "complete" }, ["complete", { tokens: 1, usage: null, duration: 5, finishReason: "stop", timings: { queued: 1, firstChunk: 2, total: 10 }, verified: true }]);
  assert.deepEqual([c.over, c.text, c.served, c.result.verified], [true, "whole", "served", true]);
  assert.equal(words.status(c, ""), "");
  assert.ok(words.facts(c).some((f) => f.name === "digest" && f.value === "verified"));
  assert.deepEqual(words.spans(c).map((s) => s.ms), [1, 2, 8]);
  assert.ok(changes >= 6);
});

test("a damaged text that is repaired keeps what came beside it", () => {
  const c = new Column({ jobId: "j" }), a = new Told();
  c.follow(a, () => {});
  a.deltas = [{ kind: "citation", url: "https://x", title: "t" }];
  a.be({}, ["delta", a.deltas[0]]);
  a.be({ text: "" }, ["reset", { reason: "digest" }]);
  assert.equal(c.parts.sources.length, 1);
});

test("failures say what may help and when", () => {
  const c = new Column({ jobId: "j" }), a = new Told();
  c.follow(a, () => {});
  a.be({ state: "failed", error: { code: "rate_limited", message: "more than 5 questions in a minute", retryable: true, fault: "caller", retryAfterMs: 12_000 } });
  const f = words.failure(c, Date.now());
  assert.deepEqual([f.title, f.action], ["Too many questions", "again"]);
  assert.match(words.again(f.wait), /^Try again in 1[12] s$/);
  assert.equal(words.again(words.failure(c, Date.now() + 13_000).wait), "Ask again");
  const lost = new Column({ jobId: "k", state: "failed", text: "x", error: { code: "offline", message: "away", fault: "host" } });
  assert.equal(words.failure(lost, 0).action, "resume");
  assert.equal(lost.resumable, true);
  assert.equal(words.failure(new Column({ jobId: "l", state: "cancelled" }), 0).calm, true);
  assert.equal(words.failure(new Column({ jobId: "m" }), 0), null);
});

test("without a connection it says why, as far as that is known", () => {
  const c = new Column({ jobId: "m", state: "running" });
  assert.match(words.status(c, words.lost(null)), /^There is no connection now\. It is tried again\. The answer goes on/);
  for (const [code, pattern] of [["too_slow", /too slow/], ["too_many_connections", /close another tab/], ["unavailable", /gateway can't be used now/], ["offline", /no connection/]]) {
    assert.match(words.lost({ code }), pattern);
    assert.match(words.lost({ code }), /tried again/);
  }
  assert.doesNotMatch(words.lost({ code: "unauthorized" }), /tried again/);
});

test("the history outlives a reload", () => {
  const s = storage();
  const h = new History(s);
  const q = ask(h, 1, ["a", "b"], { params: { x: 1 } });
  const [one, two] = q.columns;
  h.answers.save(saved(one, { text: "part" }));
  two.follow(Object.assign(new Told(), { state: "complete", text: "all" }), () => {});
  h.keep(two);

  const again = new History(s);
  const [r] = again.of("u");
  assert.deepEqual([r.query, r.params, r.columns.map((c) => [c.model, c.state, c.text, c.over])], ["q1", { x: 1 }, [["a", "running", "part", false], ["b", "complete", "all", true]]]);
  assert.equal(r.columns[0].parts.reasoning, "hm");
  assert.deepEqual(again.answers.load().map((x) => [x.jobId, x.seq]), [[one.jobId, 3]]);
  assert.deepEqual(again.of("somebody else"), []);
  again.remove(r);
  assert.equal(s.length, 0);
});

test("what has ended is not made unfinished by a late tab of the client", () => {
  const s = storage(), h = new History(s);
  const [c] = ask(h, 1, ["a"]).columns;
  c.state = "complete";
  h.keep(c);
  h.answers.save(saved(c));
  assert.deepEqual(new History(s).answers.load(), []);
});

test("an answer too long to be kept is fetched again", () => {
  const s = storage(), h = new History(s);
  const [c] = ask(h, 1, ["a"]).columns;
  Object.assign(c, { state: "complete", text: "x".repeat(300_000) });
  h.keep(c);
  const [again] = new History(s).of("u")[0].columns;
  assert.deepEqual([again.elsewhere, again.resumable, again.text], [true, true, ""]);
});

test("the oldest that have ended are forgotten", () => {
  const s = storage(), h = new History(s);
  const open = ask(h, 0, ["a"]);
  for (let i = 1; i < 100; i++) {
    const [c] = ask(h, i, ["a"]).columns;
    Object.assign(c, { state: "complete", text: "x".repeat(50_000) });
    h.keep(c);
  }
  const left = new History(s).of("u");
  assert.ok(left.length > 20 && left.length <= 61, String(left.length));
  assert.equal(left[0].query, "q99");
  assert.ok(left.some((q) => q.id === open.id), "what has not ended is kept");
});

test("a question too long to be kept drives no other out", () => {
  const s = storage(), h = new History(s);
  const small = ask(h, 1, ["a"]), large = ask(h, 2, ["a"], { query: "y".repeat(5e6) });
  for (const q of [small, large]) {
    Object.assign(q.columns[0], { state: "failed", error: { code: "request_too_large", message: "" } });
    h.keep(q.columns[0]);
  }
  assert.deepEqual(h.of("u"), [large, small]);
  assert.deepEqual(new History(s).of("u").map((q) => q.id), [small.id]);
});

test("a full, forbidden or broken storage is no obstacle", () => {
  const full = new History(storage(100));
  const [c] = ask(full, 1, ["a"]).columns;
  Object.assign(c, { state: "complete", text: "x".repeat(1000) });
  full.keep(c);
  assert.throws(() => {
    c.state = "running";
    full.answers.save(saved(c));
  });
  const forbidden = new History({ get length() { throw new Error("no"); }, key() { throw new Error("no"); }, getItem() { throw new Error("no"); }, setItem() { throw new Error("no"); }, removeItem() { throw new Error("no"); } });
  ask(forbidden, 1, ["a"]);
  assert.equal(forbidden.of("u").length, 1);
  const s = storage();
  const h = new History(s);
  const q = ask(h, 1, ["a", "b"]);
  for (const broken of ["{", "null", "7", '{"a":1}', `{"jobId":"${q.columns[0].jobId}","state":"running"}`, `{"jobId":"${q.columns[0].jobId}","state":"running","user":"u","query":"q","text":"t","provider":"","model":"","created":1,"seq":1,"attempt":1,"deltas":[null]}`]) {
    s.setItem("sluice.job." + q.columns[0].jobId, broken);
    s.setItem("sluice.question.x", broken);
    const again = new History(s);
    assert.deepEqual(again.answers.load(), []);
    assert.equal(again.of("u").length, 1);
    assert.equal(again.of("u")[0].columns[0].elsewhere, true);
  }
});

test("another tab's forgetting is heard", () => {
  const h = new History(storage());
  const q = ask(h, 1, ["a"]);
  const key = "sluice.question." + q.id;
  assert.equal(h.forgotten(key, null), null); // it has not ended here
  q.columns[0].state = "complete";
  assert.equal(h.forgotten(key, "{}"), null);
  assert.equal(h.forgotten(key, null), q);
  assert.deepEqual(h.of("u"), []);
});

test("deltas are put together", () => {
  const p = Parts.of([
    { kind: "reasoning", text: "a" }, { kind: "reasoning", text: "b", signature: "s" },
    { kind: "tool_call", index: 0, id: "1", name: "f", arguments: "{" }, { kind: "tool_call", index: 1, id: "2", name: "g", arguments: "" },
    { kind: "tool_call", index: 0, arguments: "}", end: true }, { kind: "tool_call", index: 1, arguments: "[]", end: true }, { kind: "tool_call", index: 0, name: "h", arguments: "1" },
    { kind: "refusal", text: "no" }, { kind: "refusal", text: "pe" },
    { kind: "citation", url: "https://x", title: "t", text: "one" }, { kind: "citation", url: "https://x", title: "t", text: "two" }, { kind: "citation", url: 7 },
    { kind: "image", mediaType: "image/png", data: "AA" }, { kind: "unknown", name: "new", data: {} },
  ]);
  assert.equal(p.reasoning, "ab");
  assert.deepEqual(p.calls.map((c) => [c.name, c.arguments, c.end]), [["f", "{}", true], ["g", "[]", true], ["h", "1", false]]);
  assert.equal(p.refusal, "nope");
  assert.deepEqual(p.sources.map((s) => [s.url, s.text]), [["https://x", "one\ntwo"], ["", ""]]);
  assert.deepEqual([p.images.length, p.other.length, p.empty], [1, 1, false]);
  assert.deepEqual(Parts.from(JSON.parse(JSON.stringify(p))), p);
  assert.equal(Parts.from({ reasoning: 7, calls: "x", sources: [null] }).empty, true);
});

test("JSON is laid out as it arrives", () => {
  for (const v of [{}, [], { a: 1, b: [1, { c: "x, {y}: \"z\\\" [" }], d: {}, e: [], f: null }, [[[]]], { "k:": ":,", t: true, n: -1.5e3 }]) {
    const want = JSON.stringify(v, null, 2);
    for (const json of [JSON.stringify(v), want]) {
      assert.equal(pretty(json), want);
      for (let n = 1; n < json.length; n++) {
        const lines = pretty(json.slice(0, n)).split("\n").slice(0, -1).join("\n");
        assert.ok(want.startsWith(lines), `${json.slice(0, n)}:\n${lines}`);
      }
    }
  }
  assert.equal(pretty("not json"), "not json");
  assert.equal(pretty("]]]]"), "]]]]");
  assert.ok(pretty("[".repeat(5000)).length < 600_000);
});

test("models are chosen of what is offered", () => {
  const offered = [{ name: "echo" }, { name: "gpt-*" }];
  assert.deepEqual(choose(["echo", "gpt-5", "gone", "echo"], offered, "echo"), ["echo", "gpt-5"]);
  assert.deepEqual(choose(["gone"], offered, "echo"), ["echo"]);
  assert.deepEqual(choose([], [{ name: "x*" }, { name: "y" }], "echo"), ["y"]);
  assert.deepEqual(choose(["later"], [], "echo"), ["later"]); // no host runs yet
  assert.equal(choose(["a1", "a2", "a3", "a4", "a5"], [{ name: "a*" }], "").length, 4);
  for (const [pattern, name, want] of [["a*", "abc", true], ["a*", "ba", false], ["*", "", true], ["a*b*c", "a-b-c", true], ["a*b*c", "ac", false], ["aa*aa", "aaa", false], ["a.c", "abc", false]]) assert.equal(fits(pattern, name), want, `${pattern} ${name}`);
});

test("an answer that was stopped says so", () => {
  const ended = (finishReason) => new Column({ jobId: "j", state: "complete", text: "half of", result: { finishReason } });
  assert.match(words.cut(ended("length")), /may not be all/);
  assert.match(words.cut(ended("content_filter")), /filter stopped/);
  for (const reason of ["stop", "tool_calls", "refusal", ""]) assert.equal(words.cut(ended(reason)), "");
  assert.equal(words.cut(new Column({ jobId: "j", state: "running" })), "");
  for (const [state, finishReason, said] of [["running", "", "arriving"], ["complete", "tool_calls", ""], ["complete", "stop", ""], ["complete", "length", "cut off"], ["failed", "", "cut off"], ["cancelled", "", "cut off"]]) {
    const c = { state, over: state !== "running", result: finishReason && { finishReason } };
    assert.equal(words.callState({ end: false }, c), said);
    assert.equal(words.callState({ end: true }, c), "");
  }
});

test("counts that can't be are said to be doubtful", () => {
  const tokens = (usage) => words.facts({ result: { duration: 1, tokens: 9, usage, finishReason: "stop", timings: null, verified: true } }).find((f) => f.name === "tokens");
  const { note, ...fact } = tokens({ input: 3, output: 9, reasoning: 4, doubtful: true });
  assert.deepEqual(fact, { name: "tokens", value: "3 in, 9 out, 4 reasoning, doubtful", tone: "doubtful" });
  assert.match(note, /can't be/);
  assert.deepEqual({ ...tokens({ input: 3, output: 9 }) }, { name: "tokens", value: "3 in, 9 out", tone: undefined, note: undefined });
});

test("a question that is too large is said to be, sent or not", () => {
  const error = { code: "request_too_large", message: "the request has 9 bytes, at most 8 are allowed", retryable: false, fault: "caller" };
  assert.equal(words.oversized(error), "The question is too large: the request has 9 bytes, at most 8 are allowed.");
  const told = Object.assign(new Told(), { state: "failed", error });
  const c = new Column({ jobId: "j" });
  c.follow(told, () => {}); // it has ended already
  const { title, lines, action } = words.failure(c, 0);
  assert.deepEqual([c.state, title, lines, action], ["failed", "The question is too large", ["The request has 9 bytes, at most 8 are allowed"], "again"]);
});

test("words and figures", () => {
  assert.deepEqual([words.ms(12.4), words.ms(1234), words.ms(12_345), words.ms(125_000)], ["12 ms", "1.23 s", "12.3 s", "2 min 5 s"]);
  assert.deepEqual([words.named([""]), words.named(["a", "b"]), words.named(["a", "b", "c"])], ["default", "a + b", "3 models"]);
});

// The client against a scripted gateway: the rules of seq, resets, digests, refusals.
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { SluiceError, connect, memoryStorage } from "../lib/index.js";
import { Script, frames, merged, send, sha256, text, until } from "./script.mjs";

const quick = { reconnect: { min: 10, max: 50 }, storage: null };

// setup gives a scripted gateway and a client of it.
async function setup(t, on, options = {}) {
  const gateway = await new Script(on).listen();
  t.after(() => gateway.close());
  const sluice = connect(gateway.url, { ...quick, ...options });
  t.after(() => sluice.close());
  return { gateway, sluice };
}

const queued = (play) => ({ jobId }, socket) => ({ ack: { ok: true, jobId, status: "queued" }, after: () => play?.(socket, frames(jobId)) });
const resumed = (play) => (payload, socket) => ({ ack: { ok: true, jobId: payload.jobId, state: "running", attempt: 1, seq: 100 }, after: () => play?.(socket, payload) });
const rejects = (promise, code, more = {}) => assert.rejects(promise, (e) => {
  assert.ok(e instanceof SluiceError);
  assert.deepEqual({ code: e.code, ...Object.fromEntries(Object.keys(more).map((k) => [k, e[k]])) }, { code, ...more });
  return true;
});

test("an answer, its parts and its end", async (t) => {
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => send(socket, f.progress("queued"), f.start(), f.delta("reasoning", { text: "hm" }), f.chunk("Hello "), f.chunk("world"),
      f.delta("tool_call", { index: 0, name: "look", arguments: "{}", end: true }), f.complete())),
  });
  const answer = sluice.ask({ messages: [{ role: "user", content: "Hi" }], model: "echo" }, { params: { seed: 1 } });
  assert.equal(answer.state, "sending");
  const events = [];
  for (const name of ["start", "progress", "text", "delta", "reset", "complete", "error"]) answer.on(name, (v) => events.push([name, typeof v === "string" ? v : v.kind ?? v.status ?? v.model]));
  assert.equal(await text(answer), "Hello world");
  assert.equal(await text(answer), "Hello world", "a second iteration begins at the beginning");
  const deltas = [];
  for await (const delta of answer.deltas) deltas.push(delta.kind === "tool_call" ? delta.name : delta.text);
  assert.deepEqual(deltas, ["hm", "look"]);
  assert.deepEqual(events, [["progress", "queued"], ["start", "fake-1"], ["delta", "reasoning"], ["text", "Hello "], ["text", "world"], ["delta", "tool_call"], ["complete", "fake-1"]]);
  const { digest, ...result } = await answer.done;
  assert.deepEqual(result, { jobId: answer.jobId, text: "Hello world", tokens: 3, duration: 7, finishReason: "stop", usage: { input: 1, output: 3 }, timings: { queued: 1, firstChunk: 2, total: 6 }, provider: "fake", model: "fake-1", attempt: 1, verified: true });
  assert.equal(digest, sha256("Hello world"));
  assert.deepEqual(await gateway.until("search:start:v1"), { messages: [{ role: "user", content: "Hi" }], model: "echo", params: { seed: 1 }, jobId: answer.jobId });
  assert.equal(answer.state, "complete");
  assert.equal(answer.snapshot(), answer.snapshot());
  assert.deepEqual([sluice.user, sluice.defaultModel, sluice.models.map((m) => m.name)], ["u", "echo", ["echo"]]);
});

test("duplicates are dropped, merged frames taken, a gap asked for again", async (t) => {
  let log;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => {
      log = [f.start(), f.chunk("a"), f.chunk("b"), f.chunk("c"), f.chunk("d"), f.chunk("e"), f.complete()];
      send(socket, log[0], log[1], log[0], log[1], merged(log[2], log[3]), log[3], log[5], log[6]); // d is missing
    }),
    "job:resume:v1": resumed((socket, { lastSeq }) => send(socket, ...log.slice(lastSeq))),
  });
  const answer = sluice.ask("x");
  assert.equal(await text(answer), "abcde");
  assert.equal((await answer.done).verified, true);
  assert.deepEqual(await gateway.until("job:resume:v1"), { jobId: answer.jobId, lastSeq: 4 });
  assert.equal(gateway.count("job:resume:v1"), 1);
});

test("a merged frame that was seen in part is asked for again, not cut and not doubled", async (t) => {
  let log;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => {
      log = [f.start(), f.chunk("a"), f.chunk("b"), f.chunk("c"), f.complete()];
      send(socket, log[0], log[1], log[2], merged(log[2], log[3]));
    }),
    "job:resume:v1": resumed((socket, { lastSeq }) => send(socket, ...log.slice(lastSeq))),
  });
  assert.equal(await text(sluice.ask("x")), "abc");
  assert.equal((await gateway.until("job:resume:v1")).lastSeq, 3);
});

test("frames that stay away end the answer, not the patience", async (t) => {
  const { sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => { const s = f.start(); f.chunk("lost"); send(socket, s, f.chunk("late")); }),
    "job:resume:v1": resumed((socket, { jobId }) => { const f = frames(jobId); f.start(); f.chunk(""); send(socket, f.chunk("late")); }),
  });
  await rejects(sluice.ask("x").done, "protocol", { retryable: true });
});

test("a reset drops the text and says so", async (t) => {
  const { sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => send(socket, f.start(), f.chunk("old"), f.delta("reasoning", { text: "old" }), f.start(true), f.chunk("new"), f.complete())),
  });
  const answer = sluice.ask("x");
  const resets = [];
  answer.on("reset", (r) => resets.push(r));
  const result = await answer.done;
  assert.deepEqual([result.text, result.attempt], ["new", 2]);
  assert.deepEqual(resets, [{ reason: "attempt", dropped: "old" }]);
  assert.deepEqual(answer.snapshot().deltas, []);
});

test("an iteration that has given out void text throws, unless somebody listens", async (t) => {
  const logs = new Map();
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => { logs.set(f, socket); send(socket, f.start(), f.chunk("old")); }),
  });
  for (const listens of [false, true]) {
    const answer = sluice.ask("x");
    let seen = "";
    if (listens) answer.on("reset", () => (seen = ""));
    const reading = (async () => { for await (const piece of answer) seen += piece; })();
    await until(answer, () => answer.text === "old");
    await new Promise(setImmediate); // the iteration has it too
    const [f] = [...logs.keys()].slice(-1);
    send(gateway.sockets[0], f.start(true), f.chunk("new"), f.complete());
    if (listens) await reading;
    else await rejects(reading, "reset", { retryable: true });
    await answer.done;
    assert.equal(seen, listens ? "new" : "old");
  }
});

test("a stream that was garbled is repaired by the whole text", async (t) => {
  const { sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => send(socket, f.start(), f.chunk("garbled"), f.complete({ text: "right", digest: sha256("right") }))),
  });
  const answer = sluice.ask("x");
  const resets = [];
  answer.on("reset", (r) => resets.push(r.reason));
  const result = await answer.done;
  assert.deepEqual([result.text, answer.text, result.verified, resets], ["right", "right", true, ["digest"]]);
});

test("a wrong digest is asked for again once, then told", async (t) => {
  for (const second of [false, true]) {
    let log;
    const { gateway, sluice } = await setup(t, {
      "search:start:v1": queued((socket, f) => {
        log = [f.start(), f.chunk("x"), f.complete()];
        send(socket, log[0], log[1], ["model:complete:v1", { ...log[2][1], text: "y" , digest: sha256("z") }]);
      }),
      "job:resume:v1": resumed((socket, { lastSeq }) => send(socket, ...(second ? log : [log[0], log[1], ["model:complete:v1", { ...log[2][1], digest: sha256("z") }]]).slice(lastSeq))),
    });
    const answer = sluice.ask("x");
    if (second) assert.equal((await answer.done).text, "x");
    else await rejects(answer.done, "digest_mismatch", { fault: "host" });
    assert.deepEqual(gateway.heard.filter((h) => h.event === "job:resume:v1").map((h) => h.payload.lastSeq), [0]);
  }
});

test("a connection that breaks is made again, and the answer goes on", async (t) => {
  let log, socketsSeen = 0;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => {
      log = [f.start(), f.chunk("one "), f.chunk("two "), f.chunk("three"), f.complete()];
      send(socket, log[0], log[1]);
    }),
    "job:resume:v1": resumed((socket, { lastSeq }) => {
      send(socket, log[lastSeq]);
      if (++socketsSeen < 3) socket.conn.close();
      else send(socket, ...log.slice(lastSeq + 1));
    }),
  });
  const answer = sluice.ask("x");
  await until(answer, () => answer.text === "one ");
  gateway.sockets[0].conn.close();
  assert.equal(await text(answer), "one two three");
  assert.deepEqual(gateway.heard.filter((h) => h.event === "job:resume:v1").map((h) => h.payload.lastSeq), [2, 3, 4]);
  assert.equal(gateway.count("search:start:v1"), 1);
});

test("a start without a word is sent again under the same id", async (t) => {
  let n = 0;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": (payload, socket) => {
      n++;
      if (n === 1) return undefined; // silence
      if (n === 2) return { ok: false, error: { code: "unavailable", message: "Redis is away" } };
      return queued((s, f) => send(s, f.start(), f.chunk("hi"), f.complete()))(payload, socket);
    },
  }, { ackTimeout: 50 });
  const answer = sluice.ask("x");
  assert.equal((await answer.done).text, "hi");
  assert.deepEqual(new Set(gateway.heard.map((h) => h.payload.jobId)), new Set([answer.jobId]));
});

test("a store that has lost frames is followed from its beginning", async (t) => {
  const { sluice } = await setup(t, {
    "job:resume:v1": ({ jobId, lastSeq }, socket) => ({
      ack: { ok: true, jobId, state: "running", attempt: 1, seq: 1 },
      after: () => { const f = frames(jobId); if (lastSeq === 0) send(socket, f.start(), f.chunk("anew"), f.complete()); },
    }),
  });
  const answer = sluice.resume("job-1", { lastSeq: 5, text: "seen before" });
  const resets = [];
  answer.on("reset", (r) => resets.push(r));
  assert.equal(answer.text, "seen before");
  assert.equal((await answer.done).text, "anew");
  assert.deepEqual(resets, [{ reason: "lost", dropped: "seen before" }]);
});

test("refusals and failures are errors of their code", async (t) => {
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": ({ query, jobId }, socket) => {
      if (query === "fails") return queued((s, f) => send(s, f.start(), f.chunk("part"), f.error({ code: "limited", fault: "upstream" })))({ jobId }, socket);
      if (query === "gone") return queued((s) => s.emit("error", { code: "not_found", message: "the job is gone", jobId }))({ jobId }, socket);
      return { ok: false, error: query === "often" ? { code: "rate_limited", message: "wait", retryAfterMs: 3000 } : { code: "unknown_model", message: "no host serves it" } };
    },
    "job:resume:v1": () => ({ ok: false, error: { code: "not_found", message: "there is no such job" } }),
  });
  await rejects(sluice.ask("x", { model: "none" }).done, "unknown_model", { retryable: false, fault: "caller", message: "no host serves it" });
  await rejects(sluice.ask("often").done, "rate_limited", { retryable: true, retryAfterMs: 3000 });
  await rejects(sluice.ask("gone").done, "not_found");
  await rejects(sluice.resume("nobody's").done, "not_found");
  const failed = sluice.ask("fails");
  let seen = "";
  await rejects((async () => { for await (const piece of failed) seen += piece; })(), "limited", { fault: "upstream", retryable: true });
  assert.deepEqual([seen, failed.text, failed.state], ["part", "part", "failed"]);
  const problem = new Promise((resolve) => sluice.on("problem", resolve));
  gateway.sockets[0].emit("error", { code: "internal", message: "odd" });
  assert.equal((await problem).message, "odd");
});

test("cancelling: running, while it is asked, before it is asked", async (t) => {
  let log, accept;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": async (payload, socket) => {
      if (payload.query === "slow") await new Promise((resolve) => (accept = resolve));
      return queued((s, f) => { log = f; send(s, f.start(), f.chunk("part")); })(payload, socket);
    },
    "task:cancel:v1": ({ jobId }, socket) => ({ ack: { ok: true, jobId, state: "cancelled" }, after: () => send(socket, log.cancelled()) }),
    "job:resume:v1": resumed(),
  });
  const running = sluice.ask("x");
  await until(running, () => running.text === "part");
  assert.equal(await running.cancel(), "cancelled");
  await rejects(running.done, "cancelled", { retryable: false, fault: "caller" });
  assert.equal(running.text, "part");

  const slow = sluice.ask("slow");
  await gateway.until("search:start:v1", 2);
  const cancelling = slow.cancel();
  accept();
  assert.equal(await cancelling, "cancelled");

  const asked = gateway.count("search:start:v1");
  const aborted = sluice.ask("x", { signal: AbortSignal.abort() });
  await rejects(aborted.done, "cancelled");
  assert.equal(gateway.count("search:start:v1"), asked);

  const stop = new AbortController();
  const stopped = sluice.ask("x", { signal: stop.signal });
  await until(stopped, () => stopped.text === "part");
  stop.abort();
  await rejects(stopped.done, "cancelled");
});

test("a gap before the gateway has said that it accepts is asked for after", async (t) => {
  let log;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": ({ jobId }, socket) => {
      const f = frames(jobId);
      log = [f.start(), f.chunk("a"), f.chunk("b"), f.complete()];
      send(socket, log[0], log[2], log[3]); // they overtake the ack
      return { ok: true, jobId, status: "queued" };
    },
    "job:resume:v1": resumed((socket, { lastSeq }) => send(socket, ...log.slice(lastSeq))),
  });
  assert.equal((await sluice.ask("x").done).text, "ab");
  assert.equal(gateway.count("job:resume:v1"), 1);
});

test("cancelling without a connection: a start that may have arrived is cancelled, not repeated", async (t) => {
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": () => undefined, // silence
    "task:cancel:v1": () => ({ ok: false, error: { code: "not_found", message: "there is no such job" } }),
  });
  const answer = sluice.ask("x");
  await gateway.until("search:start:v1");
  gateway.sockets[0].conn.close();
  await new Promise((resolve) => sluice.on("connection", (state) => state === "offline" && resolve()));
  assert.equal(await answer.cancel(), "cancelled");
  assert.deepEqual([gateway.count("task:cancel:v1"), gateway.count("search:start:v1")], [1, 1]);
});

test("an answer that is too long is left", async (t) => {
  const { sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => send(socket, f.start(), f.chunk("x".repeat(60)), f.chunk("x".repeat(60)), f.complete())),
  }, { maxLength: 100 });
  await rejects(sluice.ask("x").done, "too_long");
});

test("a token that is refused: another is tried, or everything fails and is kept", async (t) => {
  const gateway = await new Script({ "search:start:v1": queued((socket, f) => send(socket, f.start(), f.chunk("in"), f.complete())) }).listen();
  t.after(() => gateway.close());
  gateway.admit = ({ token }) => (token === "good" ? null : { code: "unauthorized", message: "Authentication failed: the token has expired" });

  const asked = [];
  const signed = connect(gateway.url, { ...quick, auth: async (refused) => { asked.push(refused?.code); return refused ? "good" : "old"; } });
  t.after(() => signed.close());
  assert.equal((await signed.ask("x").done).text, "in");
  assert.deepEqual(asked, [undefined, "unauthorized"]);

  const storage = memoryStorage();
  const refused = connect(gateway.url, { ...quick, storage, auth: "bad" });
  t.after(() => refused.close());
  await rejects(refused.ask("again", { key: "k" }).done, "unauthorized", { message: "Authentication failed: the token has expired" });
  assert.equal(refused.connection, "refused");
  await rejects(refused.ask("later").done, "unauthorized");
  const back = connect(gateway.url, { ...quick, storage, auth: { token: "good" } });
  t.after(() => back.close());
  assert.equal((await back.find("k").done).text, "in");

  const gaveUp = connect(gateway.url, { ...quick, auth: () => { throw new Error("nobody signed in"); } });
  t.after(() => gaveUp.close());
  await rejects(gaveUp.ask("x").done, "unauthorized");
});

test("data of the handshake that are too large are not sent again", async (t) => {
  const gateway = await new Script().listen();
  t.after(() => gateway.close());
  let n = 0;
  gateway.admit = () => (n++, { code: "request_too_large", message: "the data have 20000 bytes" });
  const sluice = connect(gateway.url, { ...quick, auth: "large" });
  t.after(() => sluice.close());
  await rejects(sluice.ask("x").done, "unauthorized", { message: "the data have 20000 bytes" });
  assert.deepEqual([sluice.connection, sluice.trouble.code, n], ["refused", "unauthorized", 1]);
});

test("nor is a token for which the connection is cut", async (t) => {
  const gateway = await new Script().listen();
  t.after(() => gateway.close());
  let n = 0;
  gateway.admit = (auth, socket) => (n++, auth.token === "small" ? undefined : new Promise(() => socket.conn.transport.socket.close(1009)));
  const sluice = connect(gateway.url, { ...quick, auth: "large" });
  t.after(() => sluice.close());
  await rejects(sluice.ask("x").done, "unauthorized", { message: "the token is too large: the connection was cut for its size" });
  assert.deepEqual([sluice.connection, n], ["refused", 1]);
  const other = connect(gateway.url, { ...quick, auth: (refused) => (refused ? "small" : "large") });
  t.after(() => other.close());
  await new Promise((resolve) => other.on("connection", (state) => state === "online" && resolve()));
  assert.equal(n, 3);
});

for (const [how, transport, cut] of [
  ["WebSocket's close code says so", "websocket", (socket) => socket.conn.transport.socket.close(1009)],
  ["the status of the POST says so", "polling", () => {}],
]) {
  test(`a question that is too large for its way is given up at once when ${how}`, async (t) => {
    const { gateway, sluice } = await setup(t, {
      "search:start:v1": ({ jobId, query }, socket) => {
        if (query === "small" && gateway.sockets.length === 1) return undefined; // on its way, too
        if (query !== "small") return void cut(socket);
        return queued((s, f) => send(s, f.start(), f.chunk("in"), f.complete()))({ jobId }, socket);
      },
    }, { transports: [transport] });
    gateway.connected = (socket) => { if (transport === "polling") socket.conn.transport.maxHttpBufferSize = 100_000; }; // other than its handshake says
    const small = sluice.ask("small");
    await gateway.until("search:start:v1");
    await rejects(sluice.ask("x".repeat(200_000)).done, "request_too_large", { message: "the request has 200098 bytes, and the connection was cut for its size", retryable: false, fault: "caller" });
    assert.equal((await small.done).text, "in");
    assert.deepEqual(gateway.heard.map((h) => h.payload.query.length), transport === "polling" ? [5, 5] : [5, 200_000, 5]);
  });
}

test("a question that is not large is sent again however often the connection is lost, and one that was heard is not blamed", async (t) => {
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": ({ jobId, query }, socket) => {
      if (gateway.sockets.length > 4) return queued((s, f) => send(s, f.start(), f.chunk("in"), f.complete()))({ jobId }, socket);
      if (query !== "small") send(socket, frames(jobId).start()); // no ack
      socket.starts = (socket.starts ?? 0) + 1;
      if (socket.starts === 2) socket.conn.close();
      return undefined;
    },
  });
  const answers = [sluice.ask("small"), sluice.ask("x".repeat(100_000))];
  for (const answer of answers) assert.equal((await answer.done).text, "in");
  assert.equal(gateway.sockets.length, 5);
});

test("a session that ends is renewed, on the live socket or by a new one", async (t) => {
  const tokens = [];
  const { gateway, sluice } = await setup(t, { "auth:renew:v1": () => ({ ok: true }), "job:resume:v1": resumed((s, { jobId }) => { const f = frames(jobId); send(s, f.start(), f.chunk("on"), f.complete()); }), "search:start:v1": queued() },
    { auth: () => { tokens.push(`t${tokens.length}`); return tokens.at(-1); } });
  const answer = sluice.ask("x");
  await gateway.until("search:start:v1");
  gateway.sockets[0].emit("auth:expiring:v1", { expiresAt: 0, inMs: 100 });
  assert.deepEqual(await gateway.until("auth:renew:v1"), { token: "t1" });
  gateway.sockets[0].emit("error", { code: "unauthorized", message: "Authentication expired" });
  gateway.sockets[0].disconnect(true);
  assert.equal((await answer.done).text, "on");
  assert.deepEqual(gateway.sockets.map((s) => s.handshake.auth.token), ["t0", "t2"]);
});

test("a gateway without room is asked again when it says", async (t) => {
  const gateway = await new Script({ "search:start:v1": queued((s, f) => send(s, f.start(), f.chunk("in"), f.complete())) }).listen();
  t.after(() => gateway.close());
  let n = 0;
  gateway.admit = () => (n++ < 2 ? { code: "too_many_connections", message: "close one first", retryAfterMs: 20 } : null);
  const sluice = connect(gateway.url, quick);
  t.after(() => sluice.close());
  assert.equal((await sluice.ask("x").done).text, "in");
});

test("why a connection was lost is known, and it is made again when the gateway says", async (t) => {
  // By itself the socket would come back after a minute at the earliest.
  const { gateway, sluice } = await setup(t, {}, { reconnect: { min: 120_000, max: 120_000 } });
  const connection = (state) => new Promise((resolve) => { const off = sluice.on("connection", (now) => now === state && (off(), resolve(sluice.trouble))); });
  assert.equal(sluice.trouble, null);
  await connection("online");
  for (const [code, how] of [["too_slow", (s) => s.conn.close()], ["unavailable", (s) => s.conn.close()], ["too_many_connections", (s) => s.disconnect(true)]]) {
    const lost = connection("offline");
    const socket = gateway.sockets.at(-1);
    socket.emit("error", { code, message: "for a reason", retryAfterMs: 30 });
    how(socket);
    const why = await lost;
    assert.deepEqual([why.code, why.message, why.retryAfterMs, why.retryable], [code, "for a reason", 30, true]);
    if (sluice.connection !== "online") await connection("online");
    assert.equal(sluice.trouble, null);
  }
  const lost = connection("offline");
  gateway.sockets.at(-1).conn.close();
  assert.deepEqual([(await lost).code, /connection was lost: transport close/.test(sluice.trouble.message)], ["offline", true]);
});

test("the queue's news say where and how long; what an attempt waits for is no other attempt", async (t) => {
  let log;
  const { gateway, sluice } = await setup(t, {
    "search:start:v1": queued((socket, f) => {
      const note = (status, more = {}) => ["task:progress:v1", { ...f.progress(status)[1], ...more }];
      log = [note("queued", { position: 3, estimateMs: 4000 }), note("queued"), f.start(), note("waiting"), f.chunk("a"), note("limited"), f.start(true), note("retrying"), f.start(true), f.chunk("b"), f.complete()];
      send(socket, ...log);
    }),
  });
  const answer = sluice.ask("x");
  const news = [];
  answer.on("progress", (p) => news.push([answer.state, p]));
  await answer.done;
  const plain = (status) => ({ progress: 0, status, message: status });
  assert.deepEqual(news, [
    ["queued", { ...plain("queued"), position: 3, estimateMs: 4000 }], ["queued", plain("queued")],
    ["running", plain("waiting")], ["waiting", plain("limited")], ["waiting", plain("retrying")],
  ]);
  assert.equal(gateway.count("job:resume:v1"), 0);
});

test("without a gateway an answer fails in time, and is kept", async (t) => {
  const gateway = await new Script({ "search:start:v1": queued((s, f) => send(s, f.start(), f.chunk("at last"), f.complete())) }).listen();
  const { port } = gateway;
  await gateway.close();
  const storage = memoryStorage();
  const sluice = connect(`http://127.0.0.1:${port}`, { ...quick, storage, giveUpAfter: 300 });
  t.after(() => sluice.close());
  await rejects(sluice.ask("x", { key: "k" }).done, "offline", { retryable: true, fault: "host" });
  sluice.close();
  await rejects(sluice.ask("y").done, "closed");
  await gateway.listen(port);
  t.after(() => gateway.close());
  const back = connect(gateway.url, { ...quick, storage });
  t.after(() => back.close());
  assert.equal((await back.find("k").done).text, "at last");
  assert.deepEqual(storage.load(), []);
});

test("what another person asked in this browser is neither shown nor asked", async (t) => {
  const gateway = await new Script({ "search:start:v1": queued(), "job:resume:v1": resumed() }).listen();
  t.after(() => gateway.close());
  const storage = memoryStorage();
  const mine = connect(gateway.url, { ...quick, storage });
  const running = mine.ask("secret"), accepted = gateway.until("search:start:v1");
  await accepted;
  await until(running, () => running.state === "queued");
  mine.close();
  assert.equal(storage.load().length, 1);

  gateway.user = "somebody else";
  gateway.heard.length = 0;
  const theirs = connect(gateway.url, { ...quick, storage });
  t.after(() => theirs.close());
  await rejects(theirs.answers[0].done, "not_found");
  assert.equal(theirs.answers[0].text, "");
  assert.deepEqual([gateway.heard, storage.load()], [[], []]);
});

test("a storage that refuses doesn't stop anything", async (t) => {
  const never = () => { throw new Error("quota"); };
  const { sluice } = await setup(t, { "search:start:v1": queued((s, f) => send(s, f.start(), f.chunk("hi"), f.complete())) }, { storage: { load: never, save: never, remove: never } });
  assert.equal((await sluice.ask("x").done).text, "hi");
});

test("a listener that throws is heard of and keeps nobody from hearing", async (t) => {
  const { sluice } = await setup(t, { "search:start:v1": queued((s, f) => send(s, f.start(), f.chunk("hi"), f.complete())) });
  const answer = sluice.ask("x");
  const seen = [];
  const others = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  const thrown = once(process, "uncaughtException");
  answer.on("text", () => { throw new Error("mine"); });
  answer.on("text", (piece) => seen.push(piece));
  await answer.done;
  assert.equal((await thrown)[0].message, "mine");
  for (const l of others) process.on("uncaughtException", l);
  assert.deepEqual(seen, ["hi"]);
});

test("frames of old workers, without numbers, are taken as they come", async (t) => {
  const bare = ([event, { seq, ...d }]) => [event, d];
  const { sluice } = await setup(t, { "search:start:v1": queued((s, f) => send(s, ...[f.chunk("a"), f.chunk("b"), f.complete({ digest: "" })].map(bare))) });
  const result = await sluice.ask("x").done;
  assert.deepEqual([result.text, result.verified], ["ab", false]);
});

// The client against the real gateway, host and echo plugin.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { before, test } from "node:test";
import { SluiceError, connect, memoryStorage } from "../lib/index.js";
import { until } from "./script.mjs";
import { install, proxy, redisServer, start, words } from "./sluice.mjs";

const quick = { reconnect: { min: 20, max: 200 } };
const echo = (delay_ms, more = {}) => ({ model: "echo", params: { options: { delay_ms, ...more } } });

before(install);

function client(t, url, options = {}) {
  const sluice = connect(url, { ...quick, ...options });
  t.after(() => sluice.close());
  return sluice;
}

// collect reads an answer and keeps its pieces.
function collect(answer) {
  const got = { pieces: [] };
  got.read = (async () => {
    for await (const piece of answer) got.pieces.push(piece);
    return got.pieces.join("");
  })();
  return got;
}

test("one gateway: asking, deltas, errors, cancelling, two tabs, a network that breaks", async (t) => {
  const { url, port } = await start(t);

  await t.test("an answer streams, and its digest fits", async (t) => {
    const answer = client(t, url).ask(words(30), echo(5));
    const got = collect(answer);
    const result = await answer.done;
    assert.equal(await got.read, words(30));
    assert.ok(got.pieces.length > 3, `it came in ${got.pieces.length} pieces`);
    assert.deepEqual([result.text, result.verified, result.model, result.provider, result.finishReason, result.attempt], [words(30), true, "echo", "echo", "stop", 1]);
    assert.equal(result.usage.output, 30);
    assert.ok(result.timings.total >= result.timings.firstChunk && result.duration > 0);
  });

  await t.test("reasoning and tool calls are deltas", async (t) => {
    const answer = client(t, url).ask({ messages: [{ role: "user", content: "look" }], ...echo(1, { reasoning: "first think", tool_call: { name: "f", arguments: { x: 1 } } }) });
    await answer.done;
    let thought = "", call = "";
    for await (const delta of answer.deltas) {
      if (delta.kind === "reasoning") thought += delta.text;
      if (delta.kind === "tool_call") call += (delta.name ?? "") + delta.arguments;
    }
    assert.deepEqual([thought, call.replaceAll(" ", "")], ["first think", 'f{"x":1}']);
  });

  await t.test("refusals and failures are typed", async (t) => {
    const sluice = client(t, url);
    const code = (code, fault) => (e) => e instanceof SluiceError && e.code === code && e.fault === fault || assert.fail(JSON.stringify(e));
    await assert.rejects(sluice.ask("x", { model: "nobody-has-it" }).done, code("unknown_model", "caller"));
    await assert.rejects(sluice.ask(" ").done, code("query_missing", "caller"));
    await assert.rejects(sluice.ask("x", { jobId: "not an id" }).done, code("invalid_job_id", "caller"));
    await assert.rejects(sluice.resume("nobodys").done, code("not_found", "caller"));
    await assert.rejects(sluice.ask(words(9), echo(1, { error: { kind: "invalid", after: 2, fault: "upstream" } })).done, code("invalid", "upstream"));
  });

  for (const transports of [["websocket"], ["polling"]]) {
    await t.test(`what is too large is refused, and cuts no connection: ${transports}`, async (t) => {
      const sluice = client(t, url, { transports });
      const early = sluice.ask("e".repeat(5e6)); // before the limit is known
      await assert.rejects(early.done, { code: "request_too_large" });
      const states = [];
      sluice.on("connection", (state) => states.push(state));
      const other = sluice.ask(words(40), echo(10));
      await until(other, () => other.text !== "");
      const question = { messages: [{ role: "user", content: "y".repeat(5e6) }] };
      const large = sluice.ask(question);
      await assert.rejects(large.done, ({ name, code, message, retryable, fault }) => {
        assert.deepEqual([name, code, retryable, fault], ["SluiceError", "request_too_large", false, "caller"]);
        assert.match(message, /^the request has 5000\d{3} bytes, at most 4259840 are allowed$/);
        return true;
      });
      assert.equal(sluice.tooLarge(question).message, large.error.message);
      for (const [query, told] of [
        ["\u00fc".repeat(2.2e6), true], ["\u{1f30a}".repeat(1.1e6), true], ["\ud83c".repeat(0.8e6), true], // in bytes, as it is sent
        ["y".repeat(4.2e6), false], // the gateway reads it, and refuses it itself
      ]) {
        assert.equal(sluice.tooLarge(query) !== null, told);
        await assert.rejects(sluice.ask({ messages: [{ role: "user", content: query }] }).done, { code: "request_too_large" });
      }
      assert.equal(sluice.tooLarge("y".repeat(4e6)), null);
      assert.deepEqual([(await other.done).text, states, sluice.answers.filter((a) => !a.over)], [words(40), [], []]);
    });
  }

  await t.test("a question for which something between cuts the connection is given up, others go on", async (t) => {
    const network = await proxy(t, port, { most: 400_000 });
    const sluice = client(t, network.url, { transports: ["websocket"] });
    const running = sluice.ask(words(150), echo(20));
    await until(running, () => running.text !== "");
    const ask = (content) => sluice.ask({ messages: [{ role: "user", content }], ...echo(0) });
    const large = ask("y".repeat(600_000)), small = ask(words(20)), whole = ask("w".repeat(100_000));
    await assert.rejects(large.done, { code: "request_too_large", message: /^the request has 600\d{3} bytes, and the connection was cut 2 times while it was sent$/ });
    assert.equal(network.cuts, 2);
    for (const [answer, said] of [[small, words(20)], [whole, "w".repeat(100_000)], [running, words(150)]]) {
      const { text, verified } = await answer.done;
      assert.deepEqual([text, verified], [said, true]);
    }
    assert.equal(network.cuts, 2);
  });

  await t.test("a token that is too large is not sent for ever", async (t) => {
    const fixed = client(t, url, { auth: "t".repeat(5e6) });
    await assert.rejects(fixed.ask("x").done, { code: "unauthorized", message: /^the token is too large: the request has 5000\d{3} bytes, at most 4259840 are allowed$/ });
    assert.equal(fixed.connection, "refused");
    const polls = client(t, url, { auth: "t".repeat(20_000), transports: ["polling"] }); // strangers may say less
    await assert.rejects(polls.ask("x").done, { code: "unauthorized" });
    const other = client(t, url, { auth: (refused) => (refused ? "small" : "t".repeat(5e6)) });
    assert.equal((await other.ask(words(3), echo(0)).done).text, words(3));
  });

  await t.test("cancelling stops it, with a receipt", async (t) => {
    const answer = client(t, url).ask("on and on", echo(20, { tokens: 100_000 }));
    await until(answer, () => answer.text.length > 10);
    assert.equal(await answer.cancel(), "cancelled");
    await assert.rejects(answer.done, { code: "cancelled" });
    assert.ok("on and on ".repeat(20_000).startsWith(answer.text));
  });

  await t.test("another tab sees it all, by itself or by id, and may cancel", async (t) => {
    const one = client(t, url), two = client(t, url);
    const seen = new Promise((resolve) => two.on("answer", resolve));
    await new Promise((resolve) => two.on("connection", resolve));
    const answer = one.ask(words(40), echo(15));
    const other = await seen;
    assert.deepEqual([other.jobId, other.query], [answer.jobId, words(40)]);
    await until(answer, () => answer.text.length > 30);
    const late = client(t, url).resume(answer.jobId);
    const partly = client(t, url).resume(answer.jobId, { lastSeq: answer.seq, text: answer.text });
    for (const a of [answer, other, late, partly]) {
      const result = await a.done;
      assert.deepEqual([result.text, result.verified], [words(40), true]);
    }
    const long = one.ask("on and on", echo(20, { tokens: 100_000 }));
    await until(long, () => long.text !== "");
    assert.equal(await two.resume(long.jobId).cancel(), "cancelled");
    await assert.rejects(long.done, { code: "cancelled" });
  });

  for (const transports of [["websocket"], ["polling"]]) {
    await t.test(`a network that is cut again and again loses nothing: ${transports}`, async (t) => {
      const network = await proxy(t, port);
      const sluice = client(t, network.url, { transports });
      const answer = sluice.ask(words(80), echo(10));
      const got = collect(answer);
      answer.on("reset", () => assert.fail("nothing was void"));
      for (let i = 1; i <= 4; i++) {
        await until(answer, () => answer.over || answer.text.length > 80 * i);
        assert.ok(!answer.over, "the cut came too late to show anything");
        network.away(true);
        if (sluice.connection === "online") await new Promise((resolve) => { const off = sluice.on("connection", () => { off(); resolve(); }); });
        network.away(false);
      }
      const result = await answer.done;
      assert.deepEqual([result.text, result.verified, await got.read], [words(80), true, words(80)]);
    });
  }

  await t.test("a client that comes late has the text in few pieces, and the rest as it comes", async (t) => {
    const answer = client(t, url).ask(words(160), echo(30));
    await until(answer, () => answer.text.includes("word80"));
    const late = client(t, url).resume(answer.jobId), part = answer.seq, before = answer.text;
    const live = collect(late);
    await until(late, () => late.text !== "");
    assert.ok(late.text.length > 300, `the first piece has ${late.text.length} characters`);
    assert.equal((await late.done).verified, true);
    assert.equal(await live.read, words(160));
    assert.ok(live.pieces.length > 10, "what came live was merged");
    for (const from of [{}, { lastSeq: part, text: before }]) {
      const after = client(t, url).resume(answer.jobId, from);
      let texts = 0;
      after.on("text", () => texts++);
      const { text, verified } = await after.done;
      assert.deepEqual([text, verified], [words(160), true]);
      assert.ok(texts <= 3, `${texts} pieces of ${answer.seq} frames`);
    }
  });

  await t.test("a client goes on where one before it was, with nothing but the storage", async (t) => {
    const storage = memoryStorage();
    const first = client(t, url, { storage });
    const asked = first.ask(words(60), { ...echo(10, { reasoning: "hm hm" }), key: "chat" });
    await until(asked, () => asked.text.length > 100);
    first.close();
    await assert.rejects(asked.done, { code: "closed" });
    const second = client(t, url, { storage });
    const answer = second.find("chat");
    assert.ok(answer.text.length >= asked.text.length, "the text is there before the connection is");
    const result = await answer.done;
    assert.deepEqual([result.text, result.verified, answer.query], [words(60), true, words(60)]);
    assert.equal(answer.snapshot().deltas.map((d) => d.text ?? "").join(""), "hm hm");
    assert.deepEqual(storage.load(), []);
  });

  await t.test("old Socket.IO clients get the events too", async () => {
    const require = createRequire(import.meta.url);
    for (const name of ["socket.io-client", "socket.io-client-4.0", "socket.io-client-3"]) {
      const { version } = require(`${name}/package.json`);
      const { io } = require(name);
      for (const transport of ["websocket", "polling"]) {
        const socket = io(url, { transports: [transport], forceNew: true });
        try {
          let text = "";
          const seqs = [];
          const end = new Promise((resolve, reject) => {
            socket.on("model:chunk:v1", (d) => { text += d.chunk; seqs.push(d.seq); });
            socket.on("model:complete:v1", resolve);
            socket.on("model:error:v1", reject);
            socket.on("connect_error", reject);
          });
          await Promise.race([end, new Promise((resolve) => socket.on("connected", resolve))]);
          const ack = await new Promise((resolve) => socket.emit("START_SEARCH", { query: words(9), ...echo(5) }, resolve));
          assert.ok(ack.ok && ack.status === "queued", `${version} ${transport}: ${JSON.stringify(ack)}`);
          const done = await end;
          assert.deepEqual([text, done.text, done.jobId], [words(9), words(9), ack.jobId], `${version} ${transport}`);
          assert.deepEqual(seqs, [...seqs].sort((a, b) => a - b));
        } finally {
          socket.close();
        }
      }
    }
  });
});

test("a gateway that is killed and started again on the same Redis loses nothing", async (t) => {
  const redis = await redisServer(t);
  if (!redis) return;
  const host = start(t, { words: ["host"], redis });
  const first = await start(t, { words: ["gateway"], redis });
  await host;
  const network = await proxy(t, first.port);
  const answer = client(t, network.url, { giveUpAfter: 60_000 }).ask(words(100), echo(20));
  const got = collect(answer);
  await until(answer, () => answer.text.length > 100);
  await first.kill();
  const second = await start(t, { words: ["gateway"], redis });
  network.to(second.port);
  await until(answer, () => answer.text.length > 500);
  assert.equal(answer.over, false, "the second end came too late to show anything");
  network.away(true);
  await second.stop(); // in order, this time
  const third = await start(t, { words: ["gateway"], redis });
  network.to(third.port);
  network.away(false);
  const result = await answer.done;
  assert.deepEqual([result.text, result.verified, await got.read], [words(100), true, words(100)]);
});

test("a rolling restart of two gateways: twenty clients are sent away one after the other, and lose nothing", async (t) => {
  const redis = await redisServer(t);
  if (!redis) return;
  const began = start(t, { words: ["host"], redis });
  const gateways = await Promise.all([1, 2].map(() => start(t, { words: ["gateway"], redis })));
  await began;
  let turn = 0;
  const network = await proxy(t, () => gateways[turn++ % gateways.length].port);
  const goodbyes = [];
  const clients = Array.from({ length: 20 }, (_, i) => {
    const sluice = client(t, network.url, { transports: ["websocket"] }); // polling needs a balancer that sticks
    const answer = sluice.ask(`${i} ${words(120)}`, echo(60));
    answer.on("reset", () => assert.fail("nothing was void"));
    sluice.on("connection", (now) => now === "offline" && goodbyes.push(sluice.trouble));
    return { sluice, answer, got: collect(answer) };
  });
  const further = async (length) => {
    for (const { answer } of clients) {
      await until(answer, () => answer.text.length > length);
      assert.equal(answer.over, false, "a gateway was stopped too late to show anything");
    }
  };
  await further(20);
  for (const length of [150, 300]) {
    gateways.push(await start(t, { words: ["gateway"], redis }));
    await gateways.shift().stop();
    await further(length);
  }
  for (const [i, { answer, got }] of clients.entries()) {
    const { text, verified, attempt } = await answer.done;
    assert.deepEqual([text, verified, attempt, await got.read], [`${i} ${words(120)}`, true, 1, text]);
  }
  // Those of the first gateway twice, perhaps; nobody without a word, and not all at the same time.
  const told = goodbyes.filter((why) => why.code === "unavailable" && why.retryAfterMs > 0);
  assert.ok(told.length >= 20, `${told.length} of ${goodbyes.length} goodbyes: ${JSON.stringify(goodbyes)}`);
  assert.ok(new Set(told.map((why) => why.retryAfterMs)).size > told.length / 2, "they come back at the same time");
});

test("users are told apart by their tokens", async (t) => {
  const secret = "0123456789abcdef0123456789abcdef";
  const { createHmac } = await import("node:crypto");
  const encode = (o) => Buffer.from(JSON.stringify(o)).toString("base64url");
  const token = (sub, seconds = 3600) => {
    const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub, exp: Math.floor(Date.now() / 1000) + seconds })}`;
    return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
  };
  const { url } = await start(t, { env: { SLUICE_GATEWAY__AUTH__MODE: "hs256", SLUICE_GATEWAY__AUTH__SECRET: secret } });
  const ada = client(t, url, { auth: token("ada") });
  const answer = ada.ask(words(10), echo(5));
  assert.equal((await answer.done).text, words(10));
  assert.equal(ada.user, "ada");
  await assert.rejects(client(t, url, { auth: token("bob") }).resume(answer.jobId).done, { code: "not_found" });
  const given = [];
  const late = client(t, url, { auth: (refused) => { given.push(refused?.message); return token("ada", refused ? 3600 : -3600); } });
  assert.equal((await late.resume(answer.jobId).done).text, words(10));
  assert.match(given[1], /Authentication failed: the token has expired/);
  await assert.rejects(client(t, url).ask("x").done, { code: "unauthorized" });
});

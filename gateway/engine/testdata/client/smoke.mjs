// Checks a server with the echo application of rig_test.go and the listeners of
// node_test.go, with a real client.
// Usage: node smoke.mjs URL [PACKAGE [NAMESPACE]]
import { createRequire } from "node:module";

const [, , url, client = "socket.io-client", namespace = ""] = process.argv;
const lookup = createRequire(import.meta.url)(client);
const io = lookup.io ?? lookup;
let failed = 0;

// The oldest clients have no timeout() and no emitWithAck().
const ask = (socket, ...args) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited too long for an answer to ${args[0]}`)), 20000);
    socket.emit(...args, (answer) => {
      clearTimeout(timer);
      resolve(answer);
    });
  });

const wait = (emitter, event, ms = 20000) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited too long for ${event}`)), ms);
    emitter.once(event, (...args) => {
      clearTimeout(timer);
      resolve(args);
    });
  });

async function check(name, f) {
  const sockets = [];
  const connect = async (options = {}, path = namespace) => {
    const socket = io(url + path, { forceNew: true, reconnection: false, ...options });
    sockets.push(socket);
    socket.on("auth", (auth) => (socket.seen = auth)); // may come with the CONNECT
    await Promise.race([
      wait(socket, "connect"),
      wait(socket, "connect_error").then(([err]) => Promise.reject(err)),
    ]);
    return socket;
  };
  try {
    await f(connect);
    console.log(`ok ${name}`);
  } catch (err) {
    failed++;
    console.log(`FAIL ${name}: ${err.message}`);
  } finally {
    sockets.forEach((s) => s.disconnect());
  }
}

const equal = (got, want) => {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g !== w) throw new Error(`got ${g?.slice(0, 200)}, want ${w.slice(0, 200)}`);
};

const upgraded = (socket) =>
  socket.io.engine.transport.name === "websocket" ? Promise.resolve() : wait(socket.io.engine, "upgrade");

// A ping has come: engine.io-client tells it by one of these, depending on its age.
const heartbeat = (socket) => Promise.race([wait(socket.io.engine, "heartbeat"), wait(socket.io.engine, "ping")]);

const transports = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };

for (const [name, list] of Object.entries(transports)) {
  const options = { transports: list };

  await check(`${name}: events, acks, auth`, async (connect) => {
    const s = await connect({ ...options, auth: { token: "t" } });
    s.emit("message", 1, "é", { a: [true, null] });
    equal(await wait(s, "message-back"), [1, "é", { a: [true, null] }]);
    equal(await ask(s, "message-with-ack", "x"), "x");
    equal(s.seen, { token: "t" });
    if (name === "upgrade") {
      await upgraded(s);
      equal(await ask(s, "message-with-ack", "after"), "after");
    }
  });

  await check(`${name}: binary`, async (connect) => {
    const s = await connect(options);
    s.emit("message", Buffer.from([1, 2, 3]), { deep: [Buffer.from([4])] });
    const [a, b] = await wait(s, "message-back");
    equal([...new Uint8Array(a)], [1, 2, 3]);
    equal([...new Uint8Array(b.deep[0])], [4]);
  });

  await check(`${name}: 200 KB each way`, async (connect) => {
    const s = await connect(options);
    const big = "é".repeat(100000);
    s.emit("message", big);
    equal((await wait(s, "message-back"))[0] === big, true);
  });

  if (namespace === "") await check(`${name}: namespaces on one connection`, async (connect) => {
    const s = await connect(options);
    const custom = s.io.socket("/custom", { auth: { n: 1 } });
    custom.connect();
    equal(await wait(custom, "auth"), [{ n: 1 }]);
    custom.disconnect();
    custom.connect();
    await wait(custom, "connect");
    const none = s.io.socket("/none");
    none.connect();
    equal((await wait(none, "connect_error"))[0].message, "Invalid namespace");
    equal(await ask(s, "message-with-ack", 1), 1);
  });

  await check(`${name}: order from the server, 20 clients, 300 events each`, async (connect) => {
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const s = await connect(options);
        let next = 0;
        let wrong = 0;
        s.on("n", (i) => {
          if (i !== next) wrong++;
          next++;
        });
        const done = wait(s, "flooded");
        s.emit("flood", 300);
        await done;
        equal([next, wrong], [300, 0]);
      }),
    );
  });

  await check(`${name}: order to the server, 20 clients, 300 events each`, async (connect) => {
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const s = await connect(options);
        for (let i = 0; i < 300; i++) {
          s.emit("count", i);
          if (i % 30 === 0) await new Promise((r) => setTimeout(r, 2));
        }
        equal(await ask(s, "counted"), [300, 0]);
      }),
    );
  });

  await check(`${name}: the server hangs up`, async (connect) => {
    const s = await connect(options);
    const words = wait(s, "last words");
    const gone = wait(s, "disconnect");
    s.emit("bye");
    await words;
    equal((await gone)[0], "io server disconnect");
  });

  await check(`${name}: the client hangs up`, async (connect) => {
    const s = await connect(options);
    s.disconnect();
    equal(s.connected, false);
  });
}

if (namespace === "") await check("a session survives three heartbeats", async (connect) => {
  const s = await connect();
  for (let i = 0; i < 3; i++) await heartbeat(s);
  equal(await ask(s, "message-with-ack", 1), 1);
});

await check("reconnects after its connection was cut", async (connect) => {
  const s = await connect({ reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 });
  await upgraded(s);
  const again = wait(s, "connect");
  s.io.engine.transport.ws.terminate?.() ?? s.io.engine.close();
  await again;
  equal(await ask(s, "message-with-ack", 1), 1);
});

process.exit(failed ? 1 : 0);

// A gateway that does as the test says: a real Socket.IO server whose answers are scripted.
import { createServer } from "node:http";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { Server } from "socket.io";

export const sha256 = (text) => createHash("sha256").update(text).digest("hex");

// Script keeps what the clients say, in order, and answers it with `on[event]`, a function that gets the payload and
// the socket and returns the ack (undefined: says nothing).
export class Script {
  constructor(on = {}) {
    this.on = on;
    this.heard = []; // {event, payload}
    this.sockets = [];
    this.waiting = [];
  }

  async listen(port = 0) {
    this.http = createServer();
    this.io = new Server(this.http, { transports: ["websocket", "polling"] });
    this.io.use(async (socket, next) => {
      const refused = await this.admit?.(socket.handshake.auth, socket);
      if (!refused) return next();
      next(Object.assign(new Error(refused.message), { data: refused }));
    });
    this.io.on("connection", (socket) => {
      this.sockets.push(socket);
      socket.onAny(async (event, payload, ack) => {
        this.heard.push({ event, payload });
        for (const wake of this.waiting.splice(0)) wake();
        const said = await this.on[event]?.(payload, socket);
        if (said !== undefined) ack?.(said.after ? said.ack : said);
        said?.after?.();
      });
      socket.emit("connected", { sessionId: socket.id, userId: this.user ?? "u", timestamp: 0, models: [{ name: "echo", provider: "echo" }], defaultModel: "echo" });
      this.connected?.(socket);
    });
    this.http.listen(port, "127.0.0.1");
    await once(this.http, "listening");
    this.port = this.http.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    return this;
  }

  // until waits for the n-th event of the name and returns its payload.
  async until(event, n = 1) {
    for (;;) {
      const found = this.heard.filter((h) => h.event === event);
      if (found.length >= n) return found[n - 1].payload;
      await new Promise((wake) => this.waiting.push(wake));
    }
  }

  count(event) { return this.heard.filter((h) => h.event === event).length; }

  async close() {
    await this.io.close();
  }
}

// frames writes a job's log: each function gives one event as [name, data].
export function frames(jobId) {
  let seq = 0, attempt = 0, text = "";
  const head = () => ({ jobId, userId: "u", attempt, seq: ++seq });
  return {
    start: (reset = false) => { attempt++; if (reset) text = ""; return ["model:start:v1", { ...head(), provider: "fake", model: "fake-1", reset }]; },
    chunk: (chunk) => { text += chunk; return ["model:chunk:v1", { ...head(), chunk, index: 0, total: null }]; },
    delta: (kind, body) => ["model:delta:v1", { ...head(), kind, ...body }],
    progress: (status) => ["task:progress:v1", { jobId, userId: "u", progress: 0, status, message: status }],
    complete: (more = {}) => ["model:complete:v1", { ...head(), text, tokens: 3, duration: 7, finishReason: "stop", usage: { input: 1, output: 3 }, provider: "fake", model: "fake-1", timings: { queued: 1, firstChunk: 2, total: 6 }, digest: sha256(text), ...more }],
    error: (more = {}) => ["model:error:v1", { ...head(), code: "unavailable", message: "overloaded", retryable: true, fault: "upstream", ...more }],
    cancelled: () => ["task:cancelled", { ...head(), text, tokens: 1, usage: null }],
  };
}

// merged is what a gateway makes of neighbouring chunks for a client that is late.
export function merged(...chunks) {
  const [first, last] = [chunks[0][1], chunks.at(-1)[1]];
  return ["model:chunk:v1", { ...last, chunk: chunks.map(([, d]) => d.chunk).join(""), index: first.index, fromSeq: first.seq }];
}

export const send = (socket, ...all) => { for (const [event, data] of all) socket.emit(event, data); };

// text reads an answer to its end.
export async function text(answer) {
  let all = "";
  for await (const piece of answer) all += piece;
  return all;
}

// until waits for what the changes of an answer bring. An answer that ends without it fails the test.
export function until(answer, holds) {
  return new Promise((resolve, reject) => {
    if (holds(answer)) return resolve();
    const off = answer.on("change", () => {
      if (!holds(answer) && !answer.over) return;
      off();
      if (holds(answer)) resolve();
      else reject(new Error(`the answer has ended before: ${answer.state}, ${JSON.stringify(answer.text.slice(-100))}, ${answer.error}`));
    });
  });
}

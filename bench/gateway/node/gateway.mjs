// The reference gateway: what a team writes on Node with socket.io and ioredis.
// It authenticates by JWT, puts each socket into its user's room, and forwards
// the frames of Redis channels job:<id> to the sockets that asked for them.
// Usage: node gateway.mjs REDIS_SOCKET SECRET
import crypto from "node:crypto";
import http from "node:http";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const [, , redisPath, secret] = process.argv;
const server = http.createServer();
const io = new Server(server, { serveClient: false, maxHttpBufferSize: 4 << 20 });
// Without the check of readiness, which a subscription that comes early would break.
const redis = new Redis({ path: redisPath, enableReadyCheck: false });
const subscriber = new Redis({ path: redisPath, enableReadyCheck: false });

function identify(token) {
  const [head, body, signature] = String(token).split(".");
  const want = crypto.createHmac("sha256", secret).update(`${head}.${body}`).digest();
  const got = Buffer.from(signature ?? "", "base64url");
  if (got.length !== want.length || !crypto.timingSafeEqual(got, want)) throw new Error("Authentication failed");
  return JSON.parse(Buffer.from(body, "base64url"));
}

io.use((socket, next) => {
  try {
    const claims = identify(socket.handshake.auth.token);
    socket.data = { user: claims.sub, admin: claims.role === "admin" };
    next();
  } catch (err) {
    next(err);
  }
});

// One subscription per channel, held while somebody is in its room.
const held = new Map();

function hold(channel) {
  const h = held.get(channel);
  if (h) {
    h.sockets++;
    return h.ready;
  }
  const ready = subscriber.subscribe(channel);
  held.set(channel, { sockets: 1, ready });
  return ready;
}

function release(channel) {
  const h = held.get(channel);
  if (h && --h.sockets === 0) {
    held.delete(channel);
    subscriber.unsubscribe(channel);
  }
}

subscriber.on("message", (channel, message) => {
  const frame = JSON.parse(message);
  io.to(channel).emit(frame.event, frame.data);
});

io.on("connection", (socket) => {
  const channels = new Set();
  const join = (channel) => {
    socket.join(channel);
    channels.add(channel);
    return hold(channel);
  };
  join(`sluice:user:${socket.data.user}`);
  socket.emit("connected", { sessionId: socket.id, userId: socket.data.user, timestamp: Date.now() });
  socket.on("job:resume:v1", async ({ jobId }, ack) => {
    const owner = await redis.hget(`sluice:{job:${jobId}}:meta`, "user");
    if (owner !== socket.data.user && !socket.data.admin) {
      ack({ ok: false, error: { code: "not_found", message: "there is no such job" } });
      return;
    }
    await join(`job:${jobId}`);
    ack({ ok: true, jobId });
  });
  socket.on("job:leave:v1", ({ jobId }, ack) => {
    const channel = `job:${jobId}`;
    if (channels.delete(channel)) {
      socket.leave(channel);
      release(channel);
    }
    ack({ ok: true });
  });
  socket.on("disconnect", () => channels.forEach(release));
});

server.listen(0, "127.0.0.1", 4096, () => console.log(`ready: http://127.0.0.1:${server.address().port}/`));
process.on("SIGUSR2", () => global.gc?.());
process.on("SIGTERM", () => process.exit(0));

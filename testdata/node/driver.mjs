// Drives real Socket.IO clients for the Go tests: commands come as JSON lines on
// stdin, what the clients see goes as JSON lines to stdout.
//
//   {id, op: "connect", name, url, options}        opens client `name`
//   {id, op: "emit", name, event, args, timeout}   emits; answered by the ack
//   {id, op: "send", name, event, args}            emits without asking for an ack
//   {id, op: "drop", name}                         breaks the connection, as a lost network would
//   {id, op: "close", name}
//
// Every command is answered by {id, ok, value | error}; everything else is
// {name, event, data}, with the events of the client itself prefixed by "$".
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const clients = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function connect({ name, url, options }) {
  const socket = io(url, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 200, ...options });
  clients.set(name, socket);
  const tell = (event, data) => say({ name, event, data });
  socket.onAny((event, ...args) => tell(event, args.length === 1 ? args[0] : args));
  const follow = () => socket.io.engine.on("upgrade", (transport) => tell("$upgrade", { transport: transport.name }));
  follow();
  socket.io.on("reconnect_attempt", () => setImmediate(follow)); // by then it has a new engine
  socket.on("connect", () => tell("$connect", { sid: socket.id, transport: socket.io.engine.transport.name }));
  socket.on("disconnect", (reason) => tell("$disconnect", { reason }));
  socket.on("connect_error", (error) => tell("$error", { message: error.message, data: error.data ?? null }));
}

const operations = {
  connect,
  emit: ({ name, event, args, timeout }) => clients.get(name).timeout(timeout ?? 30_000).emitWithAck(event, ...args),
  send: ({ name, event, args }) => { clients.get(name).emit(event, ...args); },
  drop: ({ name }) => { clients.get(name).io.engine.close(); },
  close: ({ name }) => { clients.get(name).close(); clients.delete(name); },
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line);
  try {
    const value = await operations[command.op](command);
    say({ id: command.id, ok: true, value: value ?? null });
  } catch (error) {
    say({ id: command.id, ok: false, error: String(error?.message ?? error) });
  }
}).on("close", () => process.exit(0));

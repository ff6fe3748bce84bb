// The reference: Node's socket.io, fed like the server in serve.go.
import http from "node:http";
import net from "node:net";
import { Server } from "socket.io";

const server = http.createServer();
const io = new Server(server, { serveClient: false });
const sockets = [];

io.on("connection", (socket) => {
  const i = socket.handshake.auth.i;
  sockets[i] = socket;
  socket.on("disconnect", () => {
    if (sockets[i] === socket) sockets[i] = undefined;
  });
});

function line(conn, text) {
  const [kind, rest] = [text[0], text.slice(2)];
  switch (kind) {
    case "E": {
      const space = rest.indexOf(" ");
      sockets[rest.slice(0, space)]?.emit("model:chunk:v1", JSON.parse(rest.slice(space + 1)));
      break;
    }
    case "B":
      io.emit("model:chunk:v1", JSON.parse(rest));
      break;
    case "G":
      global.gc?.();
      conn.write("ok\n");
  }
}

const feed = net.createServer((conn) => {
  let rest = "";
  conn.setEncoding("utf8");
  conn.on("data", (data) => {
    const lines = (rest + data).split("\n");
    rest = lines.pop();
    for (const text of lines) line(conn, text);
  });
  conn.on("close", () => process.exit(0));
});

server.listen(0, "127.0.0.1", 4096, () =>
  feed.listen(0, "127.0.0.1", () => console.log(`${server.address().port} ${feed.address().port}`)),
);

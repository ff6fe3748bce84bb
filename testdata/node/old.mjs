// The browser client of the stack that Sluice replaces, as it was written: it
// knows no acknowledgements, no seq and no resume. Asks one question, cancels
// another, makes a mistake, and prints every event that it saw.
//
//   node old.mjs socket.io-client|socket.io-client-3 URL
const { io } = await import(process.argv[2]);
const socket = io(process.argv[3], { auth: { token: "none is needed" } });
const seen = [];
const timer = setTimeout(() => finish("gave up"), 60_000);
let second;

for (const event of ["connected", "job:started:v1", "model:start:v1", "model:chunk:v1", "model:complete:v1", "task:progress:v1", "task:cancelled", "model:error:v1", "error"]) {
  socket.on(event, (data) => seen.push({ event, data }));
}
socket.once("connected", () => {
  socket.emit("START_SEARCH", { query: "What is in the box today", filters: { dateRange: "week", sources: ["web"] } });
});
socket.on("model:complete:v1", () => {
  socket.once("job:started:v1", ({ jobId }) => { second = jobId; });
  socket.emit("START_SEARCH", { query: "Never ends", filters: {}, params: { delay_ms: 10, tokens: 100_000 } });
});
socket.on("model:chunk:v1", ({ jobId, index }) => {
  if (jobId === second && index === 3) socket.emit("CANCEL_TASK", { jobId });
});
socket.on("task:cancelled", () => socket.emit("START_SEARCH", { filters: {} }));
socket.on("error", () => finish("done"));
socket.on("connect_error", (error) => finish("connect_error: " + error.message));

function finish(how) {
  clearTimeout(timer);
  process.stdout.write(JSON.stringify({ how, seen }), () => process.exit(0));
}

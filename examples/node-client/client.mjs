// Asks Sluice and prints the answer as it arrives: node client.mjs Why is the sky blue?
import { io } from "socket.io-client";

const query = process.argv.slice(2).join(" ") || "Hello from Node";
const socket = io(process.env.SLUICE_URL ?? "http://127.0.0.1:3210");
let jobId, lastSeq = 0;

socket.on("connect", async () => {
  const ack = jobId // connected again: go on after the last frame we have seen
    ? await socket.emitWithAck("job:resume:v1", { jobId, lastSeq })
    : await socket.emitWithAck("search:start:v1", { query });
  if (!ack.ok) fail(ack.error);
  jobId = ack.jobId;
});
socket.onAny((_event, data) => { if (data?.seq) lastSeq = data.seq; });
socket.on("model:start:v1", ({ attempt, reset }) => { if (reset && attempt > 1) process.stdout.write("\n(again, from the start)\n"); });
socket.on("model:chunk:v1", ({ chunk }) => process.stdout.write(chunk));
socket.on("model:complete:v1", ({ model, tokens, duration }) => {
  console.log(`\n(${model}: ${tokens} tokens in ${duration} ms)`);
  socket.close();
});
socket.on("model:error:v1", fail);
function fail({ code, message }) { console.error(`${code}: ${message}`); process.exit(1); }

// Serves a provider to the host that started this process, over gRPC on a unix
// socket: the protocol of go-plugin, with the service of provider.proto.
import grpc from "@grpc/grpc-js";
import { fromJSON } from "@grpc/proto-loader";
import protobuf from "protobufjs";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import provider from "../../proto/provider/provider.proto";
import controller from "./wire/controller.proto";
import health from "./wire/health.proto";
import status from "./wire/status.proto";

export const root = new protobuf.Root();
for (const text of [provider, controller, health, status]) protobuf.parse(text, root);
const wire = grpc.loadPackageDefinition(fromJSON(root.toJSON(), { longs: Number, defaults: true, oneofs: true }));

// Kinds and faults are those of message Error; more: waitMs, status, code.
export class ProviderError extends Error {
  constructor(kind, fault, message, more) {
    super(message);
    this.detail = { kind, fault, message, ...more };
  }
}

// gRPC's form of an error; what a plugin didn't mean to throw is its own fault.
function refused(e) {
  if (!(e instanceof ProviderError)) {
    console.error(e);
    e = new ProviderError("internal", "plugin", String(e));
  }
  const value = root.lookupType("sluice.provider.v1.Error").encode(e.detail).finish();
  const code = grpc.status.INTERNAL; // nobody looks at it when there are details
  const details = [{ typeUrl: "type.googleapis.com/sluice.provider.v1.Error", value }];
  const metadata = new grpc.Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(root.lookupType("google.rpc.Status").encode({ code, message: e.message, details }).finish()));
  return { code, details: e.message, metadata };
}

const answer = (f) => async (call, done) => {
  try {
    done(null, (await f(call.request)) ?? {});
  } catch (e) {
    done(refused(e));
  }
};

// stream sends what generate yields; what is yielded in one turn of the event loop, in one message.
async function stream(call, generate) {
  const stop = new AbortController();
  call.on("cancelled", () => stop.abort());
  let chunks = [], drained;
  const send = () => {
    if (chunks.length === 0 || stop.signal.aborted || call.write({ chunks: chunks.splice(0) })) return;
    drained = new Promise((ok) => { // the host is busy
      call.once("drain", ok);
      stop.signal.addEventListener("abort", ok);
    });
  };
  try {
    for await (const chunk of generate(call.request, stop.signal)) {
      if (stop.signal.aborted) break;
      if (chunks.push(chunk) === 1) setImmediate(send);
      if (chunks.length === 64) await turn();
      await drained;
    }
    send();
    call.end();
  } catch (e) {
    send();
    if (!stop.signal.aborted) call.emit("error", refused(e));
  }
}

// serve takes {name, version, check(settings), async *generate(request, signal)}, and resume like generate if it has one.
export function serve(p) {
  if (process.env.SLUICE_PLUGIN !== "sluice.provider") {
    console.error("This is a Sluice plugin: a host starts it.");
    process.exit(1);
  }
  if (process.env.SLUICE_LIFELINE === "stdin") process.stdin.resume().on("end", () => process.exit(0)); // the host is gone
  const server = new grpc.Server({ "grpc.max_receive_message_length": 64 << 20 });
  server.addService(wire.grpc.health.v1.Health.service, { Check: answer(() => ({ status: 1 })) });
  server.addService(wire.plugin.GRPCController.service, { Shutdown: answer(() => void setImmediate(() => process.exit(0))) });
  server.addService(wire.sluice.provider.v1.Provider.service, {
    Describe: answer(() => ({ name: p.name, version: p.version, sdk: "node", check: true, resume: !!p.resume })),
    Configure: answer(({ json }) => p.check(json.length > 0 ? JSON.parse(json) : {})),
    Generate: (call) => stream(call, p.generate),
    ...(p.resume && { Resume: (call) => stream(call, p.resume) }),
  });
  const socket = join(process.env.PLUGIN_UNIX_SOCKET_DIR, "node");
  server.bindAsync("unix:" + socket, grpc.ServerCredentials.createInsecure(), (e) => {
    if (e) throw e;
    process.stdout.write(`1|1|unix|${socket}|grpc|\n`); // go-plugin's version, ours, where, how
  });
}

// Requests through the host's gate, a plugin's only way out. It sends what the
// manifest allows, and fills in ${secret:NAME} in headers.
import { Agent, request } from "node:http";
import { ProviderError, root } from "./sluice.mjs";

const agent = new Agent({ keepAlive: true });

// fetch resolves to node's IncomingMessage when its head is there; iterate over it for the body.
export function fetch(url, { method = "GET", headers = {}, body = "", signal } = {}) {
  return new Promise((done, failed) => {
    const to = { socketPath: process.env.SLUICE_EGRESS, path: url, method, headers: { host: new URL(url).host, ...headers }, agent, signal };
    const sent = request(to, (response) => {
      const why = response.headers["sluice-error"]; // the gate's own answer
      if (!why) return done(response);
      response.resume();
      const e = root.lookupType("sluice.provider.v1.Error").decode(Buffer.from(why, "base64"));
      failed(new ProviderError(e.kind, e.fault, e.message, e));
    });
    sent.on("error", (e) => failed(signal?.aborted ? e : new ProviderError("unavailable", "upstream", e.message)));
    sent.end(body);
  });
}

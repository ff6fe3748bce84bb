// A provider in Node: it answers with the prompt, word by word, as the bundled
// echo does.
import { setTimeout as sleep } from "node:timers/promises";
import { ProviderError, serve } from "./sluice.mjs";

serve({
  name: "node-echo",
  version: "1.0.0",

  // The host asks whether it can be used with the operator's settings.
  check(settings) {
    whole("setting delay_ms", settings.delay_ms, 0);
  },

  async *generate(request, signal) {
    const options = Object.fromEntries(Object.entries(request.options).map(([name, json]) => [name, JSON.parse(json)]));
    const settings = request.settings.length > 0 ? JSON.parse(request.settings) : {};
    const user = request.messages.findLast((m) => m.role === "user");
    const prompt = (user?.parts ?? []).map((part) => part.text ?? "").join("");
    const words = prompt.match(/[ \t\r\n]*[^ \t\r\n]+|[ \t\r\n]+/g) ?? []; // each with the space before it
    const delay = whole("option delay_ms", options.delay_ms ?? settings.delay_ms, 30);
    let tokens = words.length && whole("option tokens", options.tokens, words.length);
    let reason = "stop";
    if (request.maxTokens > 0 && tokens > request.maxTokens) {
      tokens = request.maxTokens;
      reason = "length";
    }
    while (options.stall) await sleep(3_600_000, null, { signal }); // until it is cancelled
    for (let i = 0; i < tokens; i++) {
      const word = words[i % words.length];
      if (delay > 0) await sleep(delay, null, { signal });
      yield { text: i > 0 && i % words.length === 0 ? " " + word : word };
    }
    if (options.usage !== false) yield { usage: { input: words.length, output: tokens } };
    yield { finish: { reason, raw: reason } }; // the answer is whole
  },
});

function whole(what, value, otherwise) {
  value ??= otherwise;
  if (!Number.isInteger(value) || value < 0) throw new ProviderError("invalid", "caller", `${what} is no whole number`);
  return value;
}

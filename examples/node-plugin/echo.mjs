// A provider in Node: it answers with the prompt, word by word, and does
// whatever else an answer may hold when an option asks for it, as the bundled
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

  generate: (request, signal) => answer(request, signal, false),
  resume: (request, signal) => answer(request, signal, true),
});

async function* answer(request, signal, resumed) {
  const options = Object.fromEntries(Object.entries(request.options).map(([name, json]) => [name, JSON.parse(json)]));
  const settings = request.settings.length > 0 ? JSON.parse(request.settings) : {};
  const user = request.messages.findLast((m) => m.role === "user");
  const prompt = (user?.parts ?? []).map((part) => part.text ?? "").join("");
  let words = split(prompt), reason = "stop";
  const usage = { input: words.length, output: 0, reasoning: 0 };
  const delay = whole("option delay_ms", options.delay_ms ?? settings.delay_ms, 30);
  let tokens = words.length && whole("option tokens", options.tokens, words.length);
  if (request.maxTokens > 0 && tokens > request.maxTokens) {
    tokens = request.maxTokens;
    reason = "length";
  }
  const at = (i) => (i > 0 && i % words.length === 0 ? " " : "") + words[i % words.length];
  const say = async (chunk) => {
    if (delay > 0) await sleep(delay, null, { signal }); // throws once nobody wants the answer
    usage.output++;
    return chunk;
  };

  if (resumed) { // goes on after prefix, when that is how this answer begins
    const all = Array.from({ length: tokens }, (_, i) => at(i)).join("");
    if (!all.startsWith(request.prefix)) throw new ProviderError("invalid", "caller", "the prefix is not the beginning of this answer");
    words = split(all.slice(request.prefix.length));
    tokens = words.length;
  } else if (options.reasoning) {
    for (const text of split(said(options.reasoning, "The user wants to hear it again."))) {
      yield say({ reasoning: { text } });
      usage.reasoning++;
    }
    yield { reasoning: { signature: "echo" } };
  }
  if (options.refusal) {
    for (const refusal of split(said(options.refusal, "I would rather not repeat that."))) yield say({ refusal });
    tokens = 0;
    reason = "refusal";
  }
  for (let i = 0; i <= tokens && reason !== "refusal"; i++) {
    await trouble(options, i, signal);
    if (i < tokens) yield say({ text: at(i) });
  }
  if (options.tool_call && reason !== "refusal") {
    for (const part of call(options.tool_call)) yield say({ toolCall: part });
    yield { toolCall: { end: true } };
    reason = "tool_calls";
  }
  if (options.usage !== false) yield { usage };
  yield { finish: { reason, raw: reason } }; // the answer is whole
}

// call is a tool call as upstreams stream it: the name first, then the arguments in pieces.
function call(tool) {
  const json = JSON.stringify(tool.arguments ?? { text: "echo" });
  return [{ id: "call_1", name: tool.name ?? said(tool, "echo") }, ...json.match(/.{1,8}/gsu).map((piece) => ({ arguments: piece }))];
}

// trouble is what goes wrong after so many tokens, if the options say so.
async function trouble({ error, cut, stall }, spoken, signal) {
  if (error && spoken === (error.after ?? 0))
    throw new ProviderError(error.kind, error.fault, error.message ?? "failed, as asked", { waitMs: error.wait_ms, status: error.status, code: error.code });
  if (cut && spoken === (cut.after ?? 0)) throw new ProviderError("truncated", "upstream", "cut, as asked");
  while (stall && spoken === (stall.after ?? 0)) await sleep(3_600_000, null, { signal }); // until it is cancelled
}

// said is an option that is a text, or true for a text of our own.
const said = (option, own) => (option === true ? own : String(option));

// split cuts text into words, each with the space before it.
const split = (text) => text.match(/[ \t\r\n]*[^ \t\r\n]+|[ \t\r\n]+/g) ?? [];

function whole(what, value, otherwise) {
  value ??= otherwise;
  if (!Number.isInteger(value) || value < 0) throw new ProviderError("invalid", "caller", `${what} is no whole number`);
  return value;
}

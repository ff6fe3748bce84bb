// Does what the model's name says.
let calls = 0;
const things = {
  request: (r, emit) => emit(JSON.stringify(r)),
  chunks(r, emit) {
    emit({ reasoning: { text: "hm", signature: "s" } });
    emit({ toolCall: { index: 1, id: "c", name: "look", arguments: '{"at":"Köln"}', end: true } });
    emit({ refusal: "no" });
    emit({ citation: { url: "https://a.example/", title: "A", start: 1, end: 300 } });
    emit({ image: { mediaType: "image/png", data: new Uint8Array([0, 255, 128]) } });
    emit({ providerData: { type: "t", data: { a: [1] } } });
    emit({ usage: { input: 3, output: 70_000, reasoning: 1 }, finish: { reason: "tool_calls", raw: "t" } });
  },
  unknown: (r, emit) => emit({ telepathy: 1 }),
  half: (r, emit) => emit("a\ud83d."), // half a character
  large: (r, emit) => emit("🙂".repeat(300_000)),
  throw() { throw new TypeError("out of luck"); },
  fail() { throw new PluginError("limited", "slow down", { wait: 1500, status: 429, code: "rate" }); },
  async later(r, emit) {
    await null;
    emit("later");
  },
  async reject() { await Promise.reject(new PluginError("denied", "no key")); },
  never: () => new Promise(() => {}),
  deep: function f() { return f() + 1; },
  state: (r, emit) => emit(String(++calls)),
  random: (r, emit) => emit(String(Math.random())),
  log: () => console.warn("to the log", { a: 1 }),
  lines(r, emit) {
    const response = fetch(r.settings.url, { method: "POST", headers: { Authorization: "Bearer ${secret:KEY}", "X-Job": r.jobId }, body: "a body: ü" });
    emit(`${response.status} ${response.headers["x-upstream"]}\n`);
    for (const line of response.lines()) emit(`[${line}]`);
  },
  json: (r, emit) => emit(fetch(r.settings.url).json().text),
  elsewhere: () => fetch("https://elsewhere.example/"),
};
plugin({
  name: "try", version: "0.1.0", models: [{ name: "*", tools: true, contextTokens: 128_000 }],
  generate: (r, emit) => things[r.model](r, emit),
  resume: (r, emit) => emit("after " + r.prefix),
  countTokens: (r) => r.prompt.length,
});

// A provider in JavaScript: it answers with the prompt, word by word, and does
// whatever else an answer may hold when an option asks for it, as the bundled
// echo does.
plugin({
  name: "javascript-echo",
  version: "1.0.0",

  // The host asks whether it can be used with the operator's settings.
  check(settings) {
    whole("setting delay_ms", settings.delay_ms, 0);
  },

  generate: (request, emit) => answer(request, emit, false),
  resume: (request, emit) => answer(request, emit, true),
});

function answer({ prompt, prefix, maxTokens, options, settings }, emit, resumed) {
  let words = split(prompt), reason = "stop";
  const usage = { input: words.length, output: 0, reasoning: 0 };
  const delay = whole("option delay_ms", options.delay_ms ?? settings.delay_ms, 30);
  let tokens = words.length && whole("option tokens", options.tokens, words.length);
  if (maxTokens > 0 && tokens > maxTokens) {
    tokens = maxTokens;
    reason = "length";
  }
  const at = (i) => (i > 0 && i % words.length === 0 ? " " : "") + words[i % words.length];
  const say = (chunk) => {
    sleep(delay);
    usage.output++;
    emit(chunk); // throws once nobody wants the answer
  };

  if (resumed) { // goes on after prefix, when that is how this answer begins
    const all = Array.from({ length: tokens }, (_, i) => at(i)).join("");
    if (!all.startsWith(prefix)) throw new PluginError("invalid", "the prefix is not the beginning of this answer");
    words = split(all.slice(prefix.length));
    tokens = words.length;
  } else if (options.reasoning) {
    for (const text of split(said(options.reasoning, "The user wants to hear it again."))) {
      say({ reasoning: { text } });
      usage.reasoning++;
    }
    emit({ reasoning: { signature: "echo" } });
  }
  if (options.refusal) {
    for (const refusal of split(said(options.refusal, "I would rather not repeat that."))) say({ refusal });
    tokens = 0;
    reason = "refusal";
  }
  const [after, trouble] = options.refusal ? [] : troubleOf(options);
  for (let i = 0; i <= tokens; i++) {
    if (i === after) trouble();
    if (i < tokens) say(at(i));
  }
  if (options.tool_call && reason !== "refusal") {
    call(options.tool_call, say, emit);
    reason = "tool_calls";
  }
  if (options.usage !== false) emit({ usage });
  emit({ finish: { reason, raw: reason } }); // the answer is whole
}

// call streams a tool call as upstreams do: the name first, then the arguments in pieces.
function call(tool, say, emit) {
  const name = tool.name ?? said(tool, "echo"), json = JSON.stringify(tool.arguments ?? { text: "echo" });
  say({ toolCall: { id: "call_1", name } });
  for (const piece of json.match(/.{1,8}/gsu)) say({ toolCall: { arguments: piece } });
  emit({ toolCall: { end: true } });
}

// troubleOf is what shall go wrong: after how many tokens, and what then happens.
function troubleOf({ error, cut, stall }) {
  const fail = (kind, message, more) => () => { throw new PluginError(kind, message, more); };
  if (error) return [error.after ?? 0, fail(error.kind, error.message ?? "failed, as asked", { ...error, wait: error.wait_ms })];
  if (cut) return [cut.after ?? 0, fail("truncated", "cut, as asked")];
  if (stall) return [stall.after ?? 0, () => { for (;;) sleep(3_600_000); }]; // until it is cancelled
  return [];
}

// said is an option that is a text, or true for a text of our own.
function said(option, own) {
  return option === true ? own : String(option);
}

// split cuts text into words, each with the space before it.
function split(text) {
  return text.match(/[ \t\r\n]*[^ \t\r\n]+|[ \t\r\n]+/g) ?? [];
}

function whole(what, value, otherwise) {
  value ??= otherwise;
  if (!Number.isInteger(value) || value < 0) throw new PluginError("invalid", `${what} is no whole number`);
  return value;
}

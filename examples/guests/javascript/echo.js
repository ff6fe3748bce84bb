// A provider in JavaScript: it answers with the prompt, word by word, as the
// bundled echo does.
plugin({
  name: "javascript-echo",
  version: "1.0.0",

  // The host asks whether it can be used with the operator's settings.
  check(settings) {
    whole("setting delay_ms", settings.delay_ms, 0);
  },

  generate(request, emit) {
    const words = request.prompt.match(/[ \t\r\n]*[^ \t\r\n]+|[ \t\r\n]+/g) ?? []; // each with the space before it
    const { options, settings, maxTokens } = request;
    const delay = whole("option delay_ms", options.delay_ms ?? settings.delay_ms, 30);
    let tokens = words.length && whole("option tokens", options.tokens, words.length);
    let reason = "stop";
    if (maxTokens > 0 && tokens > maxTokens) {
      tokens = maxTokens;
      reason = "length";
    }
    while (options.stall) sleep(3_600_000); // until it is cancelled
    for (let i = 0; i < tokens; i++) {
      const word = words[i % words.length];
      sleep(delay);
      emit(i > 0 && i % words.length === 0 ? " " + word : word); // throws once nobody wants the answer
    }
    if (options.usage !== false) emit({ usage: { input: words.length, output: tokens } });
    emit({ finish: { reason, raw: reason } }); // the answer is whole
  },
});

function whole(what, value, otherwise) {
  value ??= otherwise;
  if (!Number.isInteger(value) || value < 0) throw new PluginError("invalid", `${what} is no whole number`);
  return value;
}

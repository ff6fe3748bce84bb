// A provider in C: it answers with the prompt, word by word, as the bundled
// echo does.
#include "sluice.h"

EXPORT(sluice_describe) { return describe(STR("c-echo"), STR("1.0.0")); }

// The host asks whether it can be used with the operator's settings.
EXPORT(sluice_configure) {
	u64 v;
	str delay = member(field(input(), 1), STR("delay_ms"));
	if (delay.n > 0 && !whole(delay, &v))
		return fail(STR("invalid"), STR("caller"), STR("setting delay_ms is no whole number of milliseconds"));
	return 0;
}

static int space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// word cuts the first word off, with the space before it.
static str word(str *text) {
	u32 n = 0;
	while (n < text->n && space(text->p[n])) n++;
	while (n < text->n && !space(text->p[n])) n++;
	str w = {text->p, n};
	text->p += n, text->n -= n;
	return w;
}

EXPORT(sluice_generate) {
	str request = input();
	str text = prompt(request), rest = text;
	u64 words = 0, tokens, delay = 30, limit = number(request, 10); // field max_tokens
	while (rest.n > 0) word(&rest), words++;

	str o = option(request, STR("tokens"));
	tokens = words;
	if (o.n > 0 && !whole(o, &tokens))
		return fail(STR("invalid"), STR("caller"), STR("option tokens is no whole number"));
	if (words == 0) tokens = 0;
	o = option(request, STR("delay_ms"));
	if (o.n == 0) o = member(field(request, 14), STR("delay_ms")); // field settings
	if (o.n > 0 && !whole(o, &delay))
		return fail(STR("invalid"), STR("caller"), STR("option delay_ms is no whole number of milliseconds"));
	str reason = STR("stop");
	if (limit > 0 && tokens > limit) tokens = limit, reason = STR("length");
	if (option(request, STR("stall")).n > 0)
		for (;;) pause(3600000); // until it is cancelled

	char *again = take(text.n + 1); // the prompt after a space, for the second time and later
	*again = ' ';
	__builtin_memcpy(again + 1, text.p, text.n);
	rest = text;
	for (u64 i = 0; i < tokens; i++) {
		if (rest.n == 0) rest = (str){again, text.n + 1};
		pause(delay);
		int r = emit_text(word(&rest));
		if (r < 0) return r; // nobody wants the answer any more
	}
	o = option(request, STR("usage"));
	int r = same(o, STR("false")) ? 0 : emit_usage(words, tokens);
	return r < 0 ? r : emit_finish(reason); // 0: the answer is whole
}

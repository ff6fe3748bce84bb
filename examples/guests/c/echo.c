// A provider in C: it answers with the prompt, word by word, and does whatever
// else an answer may hold when an option asks for it, as the bundled echo does.
#include "sluice.h"

// An instance serves one call, so what belongs to a call may be static.
static str request, prefix;                       // prefix: what is left of the answer so far
static u64 delay = 30, said, thought, after = -1; // milliseconds; tokens; when trouble comes

EXPORT(sluice_describe) { return describe(STR("c-echo"), STR("1.0.0"), 1); }

static int invalid(str why) { return fail(STR("invalid"), STR("caller"), why); }

// The host asks whether it can be used with the operator's settings.
EXPORT(sluice_configure) {
	str o = member(field(input(), 1), STR("delay_ms"));
	return o.n == 0 || whole(o, &delay) ? 0 : invalid(STR("setting delay_ms is no whole number of milliseconds"));
}

// say emits one token at its time. All that emits returns 0, or a reason to end
// the call: mostly that nobody wants the answer any more.
static int say(u32 kind, str token) {
	pause(delay), said++;
	return kind == REASONING ? emit_reasoning(token, STR("")) : host_emit(kind, token.p, token.n);
}

// say_words says an option that is a text, or true for a text of our own.
static int say_words(u32 kind, str option, str own) {
	int r = 0;
	for (str t = same(option, STR("true")) ? own : text(option); t.n > 0 && r == 0;) r = say(kind, word(&t));
	return r;
}

// call_tool streams a call as upstreams do: the name first, then the arguments in pieces.
static int call_tool(str call) {
	str name = text(*call.p == '"' ? call : member(call, STR("name"))), arguments = member(call, STR("arguments"));
	if (arguments.n == 0) arguments = STR("{\"text\":\"echo\"}");
	int r = emit_tool_call(STR("call_1"), name.n > 0 ? name : STR("echo"), STR(""), 0);
	for (said++; r == 0 && arguments.n > 0; said++) r = emit_tool_call(STR(""), STR(""), piece(&arguments, 8), 0);
	return r == 0 ? emit_tool_call(STR(""), STR(""), STR(""), 1) : r;
}

// trouble ends the call in the way that was asked for.
static int trouble(str error, str stall) {
	while (stall.n > 0) pause(3600000); // until it is cancelled
	if (error.n == 0) return fail(STR("truncated"), STR("upstream"), STR("cut, as asked"));
	failure f = {.kind = text(member(error, STR("kind"))), .fault = text(member(error, STR("fault")))};
	f.message = text(member(error, STR("message"))), f.code = text(member(error, STR("code")));
	whole(member(error, STR("wait_ms")), &f.wait_ms), whole(member(error, STR("status")), &f.status);
	return fail_with(f);
}

static int answer(int resumed) {
	str all = prompt(request), rest = all, again = join(STR(" "), all), reason = STR("stop"), o;
	u64 words = 0, limit = number(request, 10); // field max_tokens
	while (rest.n > 0) word(&rest), words++;
	u64 tokens = words;
	if ((o = option(request, STR("tokens"))).n > 0 && !whole(o, &tokens)) return invalid(STR("option tokens is no whole number"));
	if ((o = option(request, STR("delay_ms"))).n == 0) o = member(field(request, 14), STR("delay_ms")); // field settings
	if (o.n > 0 && !whole(o, &delay)) return invalid(STR("option delay_ms is no whole number of milliseconds"));
	if (limit > 0 && tokens > limit) tokens = limit, reason = STR("length");
	if (words == 0) tokens = 0;

	int r = 0;
	if (!resumed && (o = wanted(request, STR("reasoning"))).n > 0) {
		r = say_words(REASONING, o, STR("The user wants to hear it again.")), thought = said;
		if (r == 0) r = emit_reasoning(STR(""), STR("echo"));
	}
	str call = wanted(request, STR("tool_call")), error = wanted(request, STR("error")), stall = wanted(request, STR("stall"));
	o = error.n > 0 ? error : stall.n > 0 ? stall : wanted(request, STR("cut"));
	if (o.n > 0) after = 0, whole(member(o, STR("after")), &after);
	if (r == 0 && (o = wanted(request, STR("refusal"))).n > 0)
		r = say_words(REFUSAL, o, STR("I would rather not repeat that.")), reason = STR("refusal"), tokens = 0, after = -1, call.n = 0;

	rest = all;
	for (u64 i = 0; r == 0; i++) {
		if (i == after) return trouble(error, stall);
		if (i == tokens) break;
		if (rest.n == 0) rest = again;
		str token = word(&rest);
		u32 known = prefix.n < token.n ? prefix.n : token.n;
		if (!same(cut(&prefix, known), cut(&token, known))) return invalid(STR("the prefix is not the beginning of this answer"));
		if (token.n > 0) r = say(TEXT, token);
	}
	if (r == 0 && prefix.n > 0) return invalid(STR("the prefix is longer than this answer"));
	if (r == 0 && call.n > 0) r = call_tool(call), reason = STR("tool_calls");
	if (r == 0 && !same(option(request, STR("usage")), STR("false"))) r = emit_usage(words, said, thought);
	return r == 0 ? emit_finish(reason) : r; // 0: the answer is whole
}

EXPORT(sluice_generate) { return request = input(), answer(0); }

EXPORT(sluice_resume) { return request = input(), prefix = field(request, 16), answer(1); }

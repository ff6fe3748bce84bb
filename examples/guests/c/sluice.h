// What a Sluice guest in C needs: the host's functions, a reader for the parts
// of a request, and writers for what comes back. Freestanding: no libc.
//
// An instance serves one call and is thrown away, so memory is only ever taken.
// The ABI is documented in proto/guest, the messages in
// proto/provider/provider.proto. Functions return 0 or more, or a negative
// errno, which an export may return as it is.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { const char *p; u32 n; } str;

#define STR(literal) ((str){literal, sizeof(literal) - 1})
#define EXPORT(name) __attribute__((export_name(#name))) int name(void)
#define IMPORT(module, name) __attribute__((import_module(#module), import_name(#name)))

IMPORT(sluice_v1, input_len) int host_input_len(void);
IMPORT(sluice_v1, input_read) int host_input_read(void *p, u32 n);
IMPORT(sluice_v1, output) int host_output(u32 kind, const void *p, u32 n);
IMPORT(sluice_v1, emit) int host_emit(u32 kind, const void *p, u32 n);
IMPORT(sluice_v1, http_open) int host_http_open(const void *meta, u32 n, const void *body, u32 m);
IMPORT(sluice_v1, http_head) int host_http_head(int h, void *p, u32 n);
IMPORT(sluice_v1, http_read) int http_read(int h, void *p, u32 n); // how many bytes; 0 at the end
IMPORT(sluice_v1, http_close) int http_close(int h);
IMPORT(sluice_v1, last_error) int host_last_error(void *p, u32 n);
IMPORT(wasi_snapshot_preview1, poll_oneoff) int host_poll(const void *subs, void *events, u32 n, u32 *count);

enum { TEXT = 1, REASONING, TOOL_CALL, REFUSAL, CITATION, IMAGE, USAGE, FINISH, PROVIDER_DATA }; // of host_emit
enum { RESULT = 0, ERROR = 1 };                                                                  // of host_output
enum { FAILED = 1, EIO = 5, ECANCELED = 125 };                                                   // ECANCELED: nobody wants the answer

EXPORT(sluice_abi) { return 1 << 16 | 0; }

// Memory.

extern u8 __heap_base; // the linker's: where nothing of ours lies any more

static void *take(u32 n) {
	static u8 *next = &__heap_base;
	u8 *p = next;
	next += (n + 7) & ~7u;
	u32 have = __builtin_wasm_memory_size(0) << 16;
	if ((u32)next > have && __builtin_wasm_memory_grow(0, ((u32)next - have + 0xffff) >> 16) == (unsigned long)-1)
		__builtin_trap();
	return p;
}

static int same(str a, str b) {
	if (a.n != b.n) return 0;
	for (u32 i = 0; i < a.n; i++)
		if (a.p[i] != b.p[i]) return 0;
	return 1;
}

// cut takes so many bytes off the front.
static str cut(str *s, u32 n) {
	str front = {s->p, n};
	s->p += n, s->n -= n;
	return front;
}

// piece takes about so many bytes off the front, and no character apart.
static str piece(str *s, u32 n) {
	if (n > s->n) n = s->n;
	while (n < s->n && (s->p[n] & 0xc0) == 0x80) n++;
	return cut(s, n);
}

static int space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// word cuts the first word off, with the space before it.
static str word(str *text) {
	u32 n = 0;
	while (n < text->n && space(text->p[n])) n++;
	while (n < text->n && !space(text->p[n])) n++;
	return cut(text, n);
}

static str join(str a, str b) {
	char *p = take(a.n + b.n);
	__builtin_memcpy(p, a.p, a.n);
	__builtin_memcpy(p + a.n, b.p, b.n);
	return (str){p, a.n + b.n};
}

// Reading protobuf: next gives one field after the other.

typedef struct { str rest; u32 number; u64 value; str bytes; } reader; // value: of a varint field

static int varint(str *s, u64 *v) {
	*v = 0;
	for (u32 shift = 0; s->n > 0 && shift < 64; shift += 7) {
		u8 b = *s->p;
		s->p++, s->n--;
		*v |= (u64)(b & 0x7f) << shift;
		if (b < 0x80) return 1;
	}
	return 0;
}

static int next(reader *r) {
	u64 tag, n;
	if (!varint(&r->rest, &tag)) return 0;
	r->number = tag >> 3, r->bytes = (str){0, 0}, r->value = 0;
	switch (tag & 7) {
	case 0: return varint(&r->rest, &r->value);
	case 1: n = 8; break;
	case 2: if (!varint(&r->rest, &n)) return 0; break;
	case 5: n = 4; break;
	default: return 0;
	}
	if (n > r->rest.n) return 0;
	r->bytes = (str){r->rest.p, n};
	r->rest.p += n, r->rest.n -= n;
	return 1;
}

static str input(void) {
	int n = host_input_len();
	char *p = take(n);
	return (str){p, host_input_read(p, n) < 0 ? 0 : n};
}

// The request. Each function reads it anew: it is short.

static str field(str message, u32 number) {
	str found = {0, 0};
	for (reader r = {.rest = message}; next(&r);)
		if (r.number == number) found = r.bytes;
	return found;
}

static u64 number(str message, u32 number) {
	u64 found = 0;
	for (reader r = {.rest = message}; next(&r);)
		if (r.number == number) found = r.value;
	return found;
}

// prompt is the text of the last message of the user.
static str prompt(str request) {
	str last = {0, 0};
	for (reader r = {.rest = request}; next(&r);)
		if (r.number == 4 && same(field(r.bytes, 1), STR("user"))) last = r.bytes;
	char *text = take(last.n);
	u32 n = 0;
	for (reader r = {.rest = last}; next(&r);)
		if (r.number == 2) {
			str part = field(r.bytes, 1);
			__builtin_memcpy(text + n, part.p, part.n);
			n += part.n;
		}
	return (str){text, n};
}

// option is the JSON value of a provider option; empty if there is none.
static str option(str request, str name) {
	for (reader r = {.rest = request}; next(&r);)
		if (r.number == 15 && same(field(r.bytes, 1), name)) return field(r.bytes, 2);
	return (str){0, 0};
}

// wanted is an option that isn't false.
static str wanted(str request, str name) {
	str o = option(request, name);
	return same(o, STR("false")) ? STR("") : o;
}

static str trim(str s) {
	while (s.n > 0 && (u8)*s.p <= ' ') s.p++, s.n--;
	while (s.n > 0 && (u8)s.p[s.n - 1] <= ' ') s.n--;
	return s;
}

// member is the JSON value of a member of an object; empty if there is none.
static str member(str object, str name) {
	u32 depth = 0, start = 0;
	str key = {0, 0};
	for (u32 i = 0; i < object.n; i++) {
		char c = object.p[i];
		if (c == '"') {
			u32 from = ++i;
			for (; i < object.n && object.p[i] != '"'; i++)
				if (object.p[i] == '\\') i++;
			if (depth == 1 && !start) key = (str){object.p + from, i - from};
		} else if (depth == 1 && c == ':') {
			start = i + 1;
		} else if (c == '{' || c == '[') {
			depth++;
		} else if (c == '}' || c == ']' || c == ',') {
			if (depth == 1 && start && same(key, name)) return trim((str){object.p + start, i - start});
			if (depth == 1) start = 0;
			if (c != ',') depth--;
		}
	}
	return (str){0, 0};
}

// whole reads a JSON number that is whole and not negative; 0 says it isn't one.
static int whole(str json, u64 *v) {
	u32 digits = 0;
	*v = 0;
	for (u32 i = 0; i < json.n; i++) {
		if (json.p[i] == ' ') continue;
		if (json.p[i] < '0' || json.p[i] > '9' || ++digits > 9) return 0;
		*v = *v * 10 + (json.p[i] - '0');
	}
	return digits > 0;
}

// hex reads the four digits of an escape.
static u32 hex(const char *p) {
	u32 v = 0;
	for (u32 i = 0; i < 4; i++) v = v << 4 | ((u32)p[i] > '9' ? (p[i] | 32) - 'a' + 10 : p[i] - '0');
	return v;
}

// text is what a JSON string says, in UTF-8; empty if it isn't one.
static str text(str json) {
	if (json.n < 2 || *json.p != '"') return (str){0, 0};
	char *out = take(json.n);
	u32 n = 0;
	for (u32 i = 1; i < json.n - 1; i++) {
		u32 c = (u8)json.p[i];
		if (c != '\\') {
			out[n++] = c;
			continue;
		}
		switch (c = json.p[++i]) {
		case 'b': c = '\b'; break;
		case 'f': c = '\f'; break;
		case 'n': c = '\n'; break;
		case 'r': c = '\r'; break;
		case 't': c = '\t'; break;
		case 'u':
			if (json.n - i < 6) return (str){out, n};
			c = hex(json.p + i + 1), i += 4;
			if (c >> 10 == 0x36 && json.n - i > 7) c = 0x10000 + ((c & 0x3ff) << 10 | (hex(json.p + i + 3) & 0x3ff)), i += 6; // two halves
		}
		if (c < 0x80) out[n++] = c;
		else if (c < 0x800) out[n++] = 0xc0 | c >> 6;
		else if (c < 0x10000) out[n++] = 0xe0 | c >> 12;
		else out[n++] = 0xf0 | c >> 18, out[n++] = 0x80 | (c >> 12 & 0x3f);
		if (c >= 0x800) out[n++] = 0x80 | (c >> 6 & 0x3f);
		if (c >= 0x80) out[n++] = 0x80 | (c & 0x3f);
	}
	return (str){out, n};
}

// Writing protobuf.

typedef struct { char *p; u32 n; } message;

static message new_message(u32 size) { return (message){take(size), 0}; } // size: at least what will be in it

static void put_varint(message *m, u64 v) {
	for (; v > 0x7f; v >>= 7) m->p[m->n++] = v | 0x80;
	m->p[m->n++] = v;
}

static void put_number(message *m, u32 number, u64 v) {
	put_varint(m, number << 3);
	put_varint(m, v);
}

static void put_text(message *m, u32 number, str s) {
	put_varint(m, number << 3 | 2);
	put_varint(m, s.n);
	__builtin_memcpy(m->p + m->n, s.p, s.n);
	m->n += s.n;
}

// What comes back.

static int emit_text(str s) { return host_emit(TEXT, s.p, s.n); }

static int emit_reasoning(str text, str signature) {
	message m = new_message(text.n + signature.n + 16);
	put_text(&m, 1, text);
	put_text(&m, 2, signature);
	return host_emit(REASONING, m.p, m.n);
}

// emit_tool_call begins a call with its id and name, goes on with pieces of its
// arguments, and ends it.
static int emit_tool_call(str id, str name, str arguments, int end) {
	message m = new_message(id.n + name.n + arguments.n + 32);
	put_text(&m, 2, id);
	put_text(&m, 3, name);
	put_text(&m, 4, arguments);
	put_number(&m, 5, end);
	return host_emit(TOOL_CALL, m.p, m.n);
}

// emit_usage: reasoning is how many of the tokens that went out.
static int emit_usage(u64 in, u64 out, u64 reasoning) {
	message m = new_message(40);
	put_number(&m, 1, in);
	put_number(&m, 2, out);
	put_number(&m, 3, reasoning);
	return host_emit(USAGE, m.p, m.n);
}

static int emit_finish(str reason) {
	message m = new_message(2 * reason.n + 16);
	put_text(&m, 1, reason);
	put_text(&m, 2, reason);
	return host_emit(FINISH, m.p, m.n);
}

// resumes: whether there is an export sluice_resume.
static int describe(str name, str version, int resumes) {
	message m = new_message(name.n + version.n + 64);
	put_text(&m, 1, name);
	put_text(&m, 2, version);
	put_text(&m, 3, STR("c"));
	put_number(&m, 5, 1); // sluice_configure checks
	put_number(&m, 8, resumes);
	return host_output(RESULT, m.p, m.n);
}

// What can be said of an error, see message Error. An empty fault is the kind's usual one.
typedef struct { str kind, fault, message, code; u64 wait_ms, status; } failure;

static int fail_with(failure f) {
	message m = new_message(f.kind.n + f.fault.n + f.message.n + f.code.n + 64);
	put_text(&m, 1, f.kind);
	put_text(&m, 2, f.fault);
	put_text(&m, 3, f.message);
	put_number(&m, 4, f.wait_ms);
	put_number(&m, 5, f.status);
	put_text(&m, 6, f.code);
	host_output(ERROR, m.p, m.n);
	return FAILED;
}

// fail ends a call: return fail(...).
static int fail(str kind, str fault, str text) {
	return fail_with((failure){.kind = kind, .fault = fault, .message = text});
}

// pause waits for so many milliseconds, or until nobody wants the answer.
static void pause(u64 ms) {
	u64 subscription[6] = {0, 0, 1, ms * 1000000, 0, 0}; // the monotonic clock, from now
	u64 event[4];
	u32 count;
	if (ms > 0) host_poll(subscription, event, 1, &count);
}

// Requests. Header values may hold ${secret:NAME}: the host fills it in.

typedef struct { str name, value; } header;

// http_open sends a request, waits for the head of the response and returns its
// handle; headers end with one that has no name.
static int http_open(str method, str url, const header *headers, str body) {
	u32 size = method.n + url.n + 64;
	for (const header *h = headers; h->name.n > 0; h++) size += h->name.n + h->value.n + 32;
	message m = new_message(size);
	put_text(&m, 1, method);
	put_text(&m, 2, url);
	for (; headers->name.n > 0; headers++) {
		message h = new_message(headers->name.n + headers->value.n + 32);
		put_text(&h, 1, headers->name);
		put_text(&h, 2, headers->value);
		put_text(&m, 3, (str){h.p, h.n});
	}
	return host_http_open(m.p, m.n, body.p, body.n);
}

static int http_status(int h) {
	char *head = take(64 << 10);
	int n = host_http_head(h, head, 64 << 10);
	return n < 0 ? n : (int)number((str){head, n}, 1);
}

// failed ends a call over what an import returned, with the host's Error if there is one.
static int failed(int result) {
	char *error = take(16 << 10);
	int n = result == -EIO ? host_last_error(error, 16 << 10) : 0;
	if (n <= 0) return result;
	host_output(ERROR, error, n);
	return FAILED;
}

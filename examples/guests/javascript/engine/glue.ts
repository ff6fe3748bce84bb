// Between the JavaScript engine and the host: the engine's imports are answered
// here, and the host's calls become calls of the function that prelude.js makes.
// engine.mjs merges this module with the engine and the texts, so that all of
// them share one memory. It has no strings, no allocator and no stack of its own,
// because that memory is the engine's.

// The engine, npm quickjs-wasi. Values are handles, freed by who gets them.
@external("env", "qjs_init") declare function qjs_init(): i32;
@external("env", "qjs_set_max_stack_size") declare function qjs_set_max_stack_size(n: u32): void;
@external("env", "qjs_run_gc") declare function qjs_run_gc(): void;
@external("env", "qjs_set_gc_threshold") declare function qjs_set_gc_threshold(n: u32): void;
@external("env", "qjs_eval") declare function qjs_eval(source: usize, n: u32, file: usize, flags: i32): usize;
@external("env", "qjs_call") declare function qjs_call(f: usize, self: usize, argc: u32, argv: usize): usize;
@external("env", "qjs_new_host_function") declare function qjs_new_host_function(name: usize, n: u32, args: i32): usize;
@external("env", "qjs_new_object") declare function qjs_new_object(): usize;
@external("env", "qjs_new_number") declare function qjs_new_number(v: f64): usize;
@external("env", "qjs_new_string") declare function qjs_new_string(p: usize, n: u32): usize;
@external("env", "qjs_new_array_buffer") declare function qjs_new_array_buffer(p: usize, n: u32): usize;
@external("env", "qjs_get_undefined") declare function qjs_get_undefined(): usize;
@external("env", "qjs_get_float64") declare function qjs_get_float64(v: usize): f64;
@external("env", "qjs_get_string_len") declare function qjs_get_string_len(v: usize, n: usize): usize;
@external("env", "qjs_get_array_buffer") declare function qjs_get_array_buffer(v: usize, n: usize): usize;
@external("env", "qjs_get_exception") declare function qjs_get_exception(): usize;
@external("env", "qjs_set_prop_string") declare function qjs_set_prop_string(o: usize, name: usize, v: usize): i32;
@external("env", "qjs_is_string") declare function qjs_is_string(v: usize): i32;
@external("env", "qjs_is_exception") declare function qjs_is_exception(v: usize): i32;
@external("env", "qjs_is_job_pending") declare function qjs_is_job_pending(): i32;
@external("env", "qjs_execute_pending_job") declare function qjs_execute_pending_job(): i32;
@external("env", "qjs_free_value") declare function qjs_free_value(v: usize): void;
@external("env", "qjs_free_cstring") declare function qjs_free_cstring(p: usize): void;
@external("env", "wasm_malloc") declare function malloc(n: u32): usize;
@external("env", "wasm_free") declare function free(p: usize): void;

// Each copies the first n bytes of some sizes and as many texts, which have a zero at their end.
/** Three that engine.mjs put there: names of host functions, one letter each; file and text of prelude.js. */
@external("env", "prelude") declare function prelude(to: usize, n: u32): void;
/** Two that `sluice plugin build` put there: file and text of the plugin. */
@external("env", "script") declare function script(to: usize, n: u32): void;

// The host, see proto/guest.
@external("sluice_v1", "input_len") declare function input_len(): i32;
@external("sluice_v1", "input_read") declare function input_read(p: usize, n: u32): i32;
@external("sluice_v1", "output") declare function output(kind: u32, p: usize, n: u32): i32;
@external("sluice_v1", "emit") declare function emit(kind: u32, p: usize, n: u32): i32;
@external("sluice_v1", "http_open") declare function http_open(meta: usize, n: u32, body: usize, m: u32): i32;
@external("sluice_v1", "http_head") declare function http_head(h: i32, p: usize, n: u32): i32;
@external("sluice_v1", "http_read") declare function http_read(h: i32, p: usize, n: u32): i32;
@external("sluice_v1", "http_close") declare function http_close(h: i32): i32;
@external("sluice_v1", "log") declare function log(level: u32, p: usize, n: u32): i32;
@external("sluice_v1", "last_error") declare function last_error(p: usize, n: u32): i32;
@external("wasi_snapshot_preview1", "poll_oneoff") declare function poll_oneoff(subs: usize, events: usize, n: u32, count: usize): i32;
@external("wasi_snapshot_preview1", "random_get") declare function random_get(p: usize, n: u32): i32;
@external("wasi_snapshot_preview1", "fd_write") declare function fd_write(fd: i32, vecs: usize, n: u32, written: usize): i32;

const BUFFER: u32 = 64 << 10; // no head, error or piece of a body is larger

let dispatch: usize = 0; // the function that prelude.js makes
let undefined_: usize = 0;
let scratch: usize = 0;
let argument: usize = 0;

// What the host calls.

export function sluice_abi(): i32 { return 1 << 16; }
export function sluice_warm(): void { start(); }
export function sluice_describe(): i32 { return call(1); }
export function sluice_configure(): i32 { return call(2); }
export function sluice_generate(): i32 { return call(3); }
export function sluice_resume(): i32 { return call(4); }
export function sluice_count_tokens(): i32 { return call(5); }

/** Evaluates the scripts: once, before the host freezes the memory that every job begins with. */
function start(): void {
  if (dispatch != 0) return;
  qjs_init();
  qjs_set_max_stack_size(512 << 10); // half of it: what is beyond is the engine's own
  scratch = malloc(BUFFER);
  argument = malloc(4);
  undefined_ = qjs_get_undefined();
  prelude(scratch, 12);
  let size = 12 + load<u32>(scratch) + load<u32>(scratch + 4) + load<u32>(scratch + 8);
  let texts = malloc(size);
  prelude(texts, size);
  const names = texts + 12, host = qjs_new_object(), name = malloc(2);
  store<u8>(name + 1, 0);
  for (let p = names; load<u8>(p) != 0; p++) {
    store<u8>(name, load<u8>(p));
    qjs_set_prop_string(host, name, qjs_new_host_function(name, 1, 0));
  }
  store<u32>(argument, host);
  dispatch = checked(qjs_call(evaluate(texts + 4, names + load<u32>(texts)), undefined_, 1, argument));
  script(scratch, 8);
  size = 8 + load<u32>(scratch) + load<u32>(scratch + 4);
  texts = malloc(size);
  script(texts, size);
  evaluate(texts, texts + 8);
  // A collection would touch, and so copy, all of the memory that a job shares with the others.
  qjs_run_gc();
  qjs_set_gc_threshold(8 << 20);
}

/** Evaluates the text that follows its file's name; sizes has those of the two. */
function evaluate(sizes: usize, file: usize): usize {
  return checked(qjs_eval(file + load<u32>(sizes), load<u32>(sizes + 4) - 1, file, 0));
}

/** Ends in a trap if v is an exception, which has been written to the log. */
function checked(v: usize): usize {
  if (!qjs_is_exception(v)) return v;
  store<u32>(scratch, <u32>qjs_get_string_len(qjs_get_exception(), scratch + 4));
  fd_write(2, scratch, 1, scratch + 8);
  unreachable();
  return 0;
}

function call(what: i32): i32 {
  start();
  ask(what);
  while (qjs_is_job_pending()) qjs_execute_pending_job(); // if the plugin's function is async
  return ask(0);
}

function ask(what: i32): i32 {
  const v = qjs_new_number(what);
  store<u32>(argument, v);
  const r = checked(qjs_call(dispatch, undefined_, 1, argument)), code = <i32>qjs_get_float64(r);
  qjs_free_value(v);
  qjs_free_value(r);
  return code;
}

// What the engine calls.

export function host_call(name: usize, n: u32, self: usize, argc: u32, argv: usize): usize {
  switch (load<u8>(name)) {
    case 0x77: // w(text): emit, the usual case
      return number(emitText(1, load<u32>(argv)));
    case 0x65: { // e(kind, text or bytes): emit
      const kind = whole(argv, 0), v = load<u32>(argv + 4);
      return number(qjs_is_string(v) ? emitText(kind, v) : emit(kind, bytes(v), load<u32>(scratch)));
    }
    case 0x69: { // i(): the input
      const size = input_len(), p = malloc(size + 1);
      input_read(p, size);
      return given(p, size);
    }
    case 0x6f: // o(kind, bytes): output
      return number(output(whole(argv, 0), bytes(load<u32>(argv + 4)), load<u32>(scratch)));
    case 0x6c: { // l(level, text): log
      const p = qjs_get_string_len(load<u32>(argv + 4), scratch), r = log(whole(argv, 0), p, load<u32>(scratch));
      qjs_free_cstring(p);
      return number(r);
    }
    case 0x78: // x(): last error
      return filled(last_error(scratch, BUFFER));
    case 0x68: { // h(meta, body): http_open
      const meta = bytes(load<u32>(argv)), size = load<u32>(scratch);
      return number(http_open(meta, size, bytes(load<u32>(argv + 4)), load<u32>(scratch)));
    }
    case 0x48: // H(handle): http_head
      return filled(http_head(whole(argv, 0), scratch, BUFFER));
    case 0x72: // r(handle): http_read
      return filled(http_read(whole(argv, 0), scratch, BUFFER));
    case 0x63: // c(handle): http_close
      return number(http_close(whole(argv, 0)));
    case 0x73: // s(milliseconds): sleep
      memory.fill(scratch, 0, 48);
      store<u64>(scratch + 16, 1); // the monotonic clock
      store<u64>(scratch + 24, <u64>(qjs_get_float64(load<u32>(argv)) * 1e6)); // from now
      return number(poll_oneoff(scratch, scratch + 48, 1, scratch + 80));
    case 0x6e: // n(): a random number
      random_get(scratch, 8);
      return qjs_new_number(<f64>(load<u64>(scratch) >> 11) / 9007199254740992.0);
    case 0x74: { // t(bytes, from, to): UTF-8 as a string
      const p = bytes(load<u32>(argv)), to = min(<u32>whole(argv, 2), load<u32>(scratch)), from = min(<u32>whole(argv, 1), to);
      return qjs_new_string(p + from, to - from);
    }
    case 0x62: { // b(string): UTF-8
      const p = qjs_get_string_len(load<u32>(argv), scratch), v = qjs_new_array_buffer(p, load<u32>(scratch));
      qjs_free_cstring(p);
      return v;
    }
  }
  unreachable();
  return 0;
}

export function host_interrupt(): i32 { return 0; } // the host stops a guest by itself
export function host_promise_rejection(promise: usize, reason: usize, handled: i32): void { qjs_free_value(promise); qjs_free_value(reason); }
export function host_module_normalize(base: usize, name: usize): usize { return 0; } // a plugin is one script
export function host_module_load(name: usize, size: usize): usize { return 0; }
export function host_get_timezone_offset(high: i32, low: i32): i32 { return 0; } // UTC

function emitText(kind: u32, v: usize): i32 {
  const p = qjs_get_string_len(v, scratch), r = emit(kind, p, load<u32>(scratch));
  qjs_free_cstring(p);
  return r;
}

function whole(argv: usize, i: i32): i32 { return <i32>qjs_get_float64(load<u32>(argv + 4 * i)); }
function number(v: i32): usize { return qjs_new_number(v); }

/** Where an ArrayBuffer's bytes are; how many there are is in scratch. */
function bytes(v: usize): usize {
  store<u32>(scratch, 0);
  return qjs_get_array_buffer(v, scratch);
}

function given(p: usize, n: u32): usize {
  const v = qjs_new_array_buffer(p, n);
  free(p);
  return v;
}

/** What was written to scratch as an ArrayBuffer, or the errno. */
function filled(n: i32): usize { return n < 0 ? number(n) : qjs_new_array_buffer(scratch, n); }

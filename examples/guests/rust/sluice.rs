//! What a Sluice guest in Rust needs, with nothing but the standard library: the
//! host's functions, a reader for the parts of a request, and writers for what
//! comes back.
//!
//! An instance serves one call and is thrown away. The ABI is documented in
//! proto/guest, the messages in proto/provider/provider.proto.
#![allow(dead_code)]

use std::panic;

mod host {
    #[link(wasm_import_module = "sluice_v1")]
    extern "C" {
        pub fn input_len() -> i32;
        pub fn input_read(p: *mut u8, n: usize) -> i32;
        pub fn output(kind: u32, p: *const u8, n: usize) -> i32;
        pub fn emit(kind: u32, p: *const u8, n: usize) -> i32;
        pub fn http_open(meta: *const u8, n: usize, body: *const u8, m: usize) -> i32;
        pub fn http_head(h: i32, p: *mut u8, n: usize) -> i32;
        pub fn http_read(h: i32, p: *mut u8, n: usize) -> i32;
        pub fn http_close(h: i32) -> i32;
        pub fn last_error(p: *mut u8, n: usize) -> i32;
        pub fn log(level: u32, p: *const u8, n: usize) -> i32;
    }
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    extern "C" {
        pub fn poll_oneoff(subs: *const u64, events: *mut u64, n: u32, count: *mut u32) -> i32;
    }
}

const EIO: i32 = -5;
const ECANCELED: i32 = -125;
const TEXT: u32 = 1;
const REASONING: u32 = 2;
const TOOL_CALL: u32 = 3;
const REFUSAL: u32 = 4;
const USAGE: u32 = 7;
const FINISH: u32 = 8;

/// Why a call ends early; `?` passes it on.
pub enum Stop {
    /// Nobody wants the answer any more.
    Unwanted,
    Failed(Failure),
    /// An Error of the host's, as it came.
    Host(Vec<u8>),
}

/// What can be said of an error, see message Error. An empty fault is the kind's
/// usual one.
#[derive(Default)]
pub struct Failure {
    pub kind: String,
    pub fault: String,
    pub message: String,
    pub code: String,
    pub wait_ms: u64,
    pub status: u64,
}

/// An error, to be returned.
pub fn fail<T>(kind: &str, message: &str) -> Result<T> {
    Err(Stop::Failed(Failure { kind: kind.into(), message: message.into(), ..Failure::default() }))
}

pub type Result<T = ()> = std::result::Result<T, Stop>;

/// Exports a plugin: `plugin!("name", "1.0.0", configure, generate);` where
/// `configure` is a `fn(&str) -> Result`, given the settings as a JSON object,
/// and `generate` a `fn(&Request) -> Result`. A further one like it resumes.
macro_rules! plugin {
    ($name:expr, $version:expr, $configure:expr, $generate:expr $(, $resume:expr)?) => {
        #[no_mangle]
        pub extern "C" fn sluice_abi() -> i32 {
            1 << 16
        }
        #[no_mangle]
        pub extern "C" fn sluice_describe() -> i32 {
            sluice::describe($name, $version, 0 $(+ { stringify!($resume); 1 })?)
        }
        #[no_mangle]
        pub extern "C" fn sluice_configure() -> i32 {
            sluice::run(|| $configure(&sluice::settings()))
        }
        #[no_mangle]
        pub extern "C" fn sluice_generate() -> i32 {
            sluice::run(|| $generate(&sluice::Request::read()))
        }
        $(
            #[no_mangle]
            pub extern "C" fn sluice_resume() -> i32 {
                sluice::run(|| $resume(&sluice::Request::read()))
            }
        )?
    };
}

pub fn describe(name: &str, version: &str, resumes: u64) -> i32 {
    let mut m = Vec::new();
    put_text(&mut m, 1, name);
    put_text(&mut m, 2, version);
    put_text(&mut m, 3, "rust");
    put_number(&mut m, 5, 1); // configure checks
    put_number(&mut m, 8, resumes);
    unsafe { host::output(0, m.as_ptr(), m.len()) }
}

/// Runs an export and tells the host how it ended.
pub fn run(f: impl FnOnce() -> Result) -> i32 {
    // A panic ends in a trap, which has no text of its own.
    panic::set_hook(Box::new(|p| {
        let text = p.to_string();
        unsafe { host::log(3, text.as_ptr(), text.len()) };
    }));
    match f() {
        Ok(()) => 0,
        Err(Stop::Unwanted) => ECANCELED,
        Err(Stop::Failed(f)) => {
            let mut m = Vec::new();
            put_text(&mut m, 1, &f.kind);
            put_text(&mut m, 2, &f.fault);
            put_text(&mut m, 3, &f.message);
            put_number(&mut m, 4, f.wait_ms);
            put_number(&mut m, 5, f.status);
            put_text(&mut m, 6, &f.code);
            unsafe { host::output(1, m.as_ptr(), m.len()) };
            1
        }
        Err(Stop::Host(e)) => {
            unsafe { host::output(1, e.as_ptr(), e.len()) };
            1
        }
    }
}

#[derive(Default)]
pub struct Request {
    /// The text of the last message of the user.
    pub prompt: String,
    /// 0: no limit.
    pub max_tokens: u64,
    /// A JSON object.
    pub settings: String,
    /// JSON values by name.
    pub options: Vec<(String, String)>,
    /// What a resumed answer goes on after.
    pub prefix: String,
}

impl Request {
    pub fn read() -> Request {
        let input = input();
        let mut r = Request::default();
        each(&input, |number, value, bytes| match number {
            4 if field(bytes, 1) == b"user" => {
                r.prompt.clear();
                each(bytes, |number, _, part| {
                    if number == 2 {
                        r.prompt += &String::from_utf8_lossy(field(part, 1));
                    }
                });
            }
            10 => r.max_tokens = value,
            14 => r.settings = text(bytes),
            15 => r.options.push((text(field(bytes, 1)), text(field(bytes, 2)))),
            16 => r.prefix = text(bytes),
            _ => {}
        });
        r
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|o| o.0 == name).map(|o| o.1.as_str())
    }
}

/// What a JSON string says.
pub fn string(json: &str) -> Option<String> {
    let mut out = Vec::new(); // UTF-16, as its escapes are
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match rest.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits = rest.as_str().get(..4)?;
                    out.push(u16::from_str_radix(digits, 16).ok()?);
                    rest = rest.as_str()[4..].chars();
                    continue;
                }
                other => other,
            },
            other => other,
        };
        out.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    Some(String::from_utf16_lossy(&out))
}

/// A JSON number that is whole and not negative.
pub fn whole(json: Option<&str>, default: u64, what: &str) -> Result<u64> {
    match json.map(str::parse) {
        None => Ok(default),
        Some(Ok(v)) => Ok(v),
        Some(Err(_)) => fail("invalid", &format!("{} is no whole number", what)),
    }
}

/// Cuts text into words, each with the space before it.
pub fn split(mut text: &str) -> Vec<&str> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut words = Vec::new();
    while !text.is_empty() {
        let start = text.find(|c| !space(c)).unwrap_or(text.len());
        let end = text[start..].find(space).map_or(text.len(), |n| start + n);
        words.push(&text[..end]);
        text = &text[end..];
    }
    words
}

/// Cuts text into pieces of about n bytes, and no character apart.
pub fn pieces(mut text: &str, n: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let end = (n..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
        pieces.push(&text[..end]);
        text = &text[end..];
    }
    pieces
}

/// The settings that a configure call is about.
pub fn settings() -> String {
    text(field(&input(), 1))
}

/// The JSON value of a member of a JSON object.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let (mut depth, mut key, mut start) = (0, "", 0);
    let bytes = object.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                let from = i + 1;
                i = from;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                if depth == 1 && start == 0 {
                    key = object.get(from..i).unwrap_or("");
                }
            }
            b':' if depth == 1 => start = i + 1,
            b'{' | b'[' => depth += 1,
            c @ (b'}' | b']' | b',') => {
                if depth == 1 && start > 0 && key == name {
                    return Some(object[start..i].trim());
                }
                if depth == 1 {
                    start = 0;
                }
                if c != b',' {
                    depth -= 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// A part of the answer.
pub fn emit_text(s: &str) -> Result {
    sent(unsafe { host::emit(TEXT, s.as_ptr(), s.len()) })
}

pub fn emit_refusal(s: &str) -> Result {
    sent(unsafe { host::emit(REFUSAL, s.as_ptr(), s.len()) })
}

pub fn emit_reasoning(text: &str, signature: &str) -> Result {
    let mut m = Vec::new();
    put_text(&mut m, 1, text);
    put_text(&mut m, 2, signature);
    sent(unsafe { host::emit(REASONING, m.as_ptr(), m.len()) })
}

/// Begins a tool call with its id and name, goes on with pieces of its arguments,
/// and ends it.
pub fn emit_tool_call(id: &str, name: &str, arguments: &str, end: bool) -> Result {
    let mut m = Vec::new();
    put_text(&mut m, 2, id);
    put_text(&mut m, 3, name);
    put_text(&mut m, 4, arguments);
    put_number(&mut m, 5, u64::from(end));
    sent(unsafe { host::emit(TOOL_CALL, m.as_ptr(), m.len()) })
}

/// Tokens; reasoning is how many of the output were.
pub fn emit_usage(input: u64, output: u64, reasoning: u64) -> Result {
    let mut m = Vec::new();
    put_number(&mut m, 1, input);
    put_number(&mut m, 2, output);
    put_number(&mut m, 3, reasoning);
    sent(unsafe { host::emit(USAGE, m.as_ptr(), m.len()) })
}

/// The answer is whole.
pub fn emit_finish(reason: &str) -> Result {
    let mut m = Vec::new();
    put_text(&mut m, 1, reason);
    put_text(&mut m, 2, reason);
    sent(unsafe { host::emit(FINISH, m.as_ptr(), m.len()) })
}

fn sent(code: i32) -> Result {
    checked(code).map(|_| ())
}

/// What an import returned, as a number or as the reason of its failure.
fn checked(code: i32) -> Result<usize> {
    match code {
        0.. => return Ok(code as usize),
        ECANCELED => return Err(Stop::Unwanted),
        EIO => {
            let mut e = vec![0; 16 << 10];
            let n = unsafe { host::last_error(e.as_mut_ptr(), e.len()) };
            if n > 0 {
                e.truncate(n as usize);
                return Err(Stop::Host(e));
            }
        }
        _ => {}
    }
    fail("internal", &format!("the host refused it: errno {}", -code))
}

/// The response to a request; dropping it gives up the rest of its body.
pub struct Response {
    pub status: u64,
    handle: i32,
}

/// Sends a request and waits for the head of the response. Header values may hold
/// ${secret:NAME}: the host fills it in.
pub fn fetch(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let mut m = Vec::new();
    put_text(&mut m, 1, method);
    put_text(&mut m, 2, url);
    for (name, value) in headers {
        let mut h = Vec::new();
        put_text(&mut h, 1, name);
        put_text(&mut h, 2, value);
        put_varint(&mut m, 3 << 3 | 2);
        put_varint(&mut m, h.len() as u64);
        m.extend_from_slice(&h);
    }
    let handle = checked(unsafe { host::http_open(m.as_ptr(), m.len(), body.as_ptr(), body.len()) })? as i32;
    let mut response = Response { status: 0, handle };
    let mut head = vec![0; 64 << 10];
    let n = checked(unsafe { host::http_head(handle, head.as_mut_ptr(), head.len()) })?;
    each(&head[..n], |number, value, _| {
        if number == 1 {
            response.status = value;
        }
    });
    Ok(response)
}

impl Response {
    /// The next bytes of the body; 0 at its end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        checked(unsafe { host::http_read(self.handle, buf.as_mut_ptr(), buf.len()) })
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        unsafe { host::http_close(self.handle) };
    }
}

/// Waits for so many milliseconds, or until nobody wants the answer.
pub fn pause(ms: u64) {
    let subscription = [0, 0, 1, ms * 1_000_000, 0, 0]; // the monotonic clock, from now
    let (mut event, mut count) = ([0; 4], 0);
    if ms > 0 {
        unsafe { host::poll_oneoff(subscription.as_ptr(), event.as_mut_ptr(), 1, &mut count) };
    }
}

fn input() -> Vec<u8> {
    let mut b = vec![0; unsafe { host::input_len() } as usize];
    unsafe { host::input_read(b.as_mut_ptr(), b.len()) };
    b
}

fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

// Protobuf: https://protobuf.dev/programming-guides/encoding/

/// Calls f with the number, and the value or the bytes, of each field.
fn each<'a>(mut b: &'a [u8], mut f: impl FnMut(u64, u64, &'a [u8])) {
    fn varint(b: &mut &[u8]) -> Option<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let (&first, rest) = b.split_first()?;
            *b = rest;
            v |= u64::from(first & 0x7f) << shift;
            if first < 0x80 {
                return Some(v);
            }
        }
        None
    }
    while let Some(tag) = varint(&mut b) {
        let n = match tag & 7 {
            0 => match varint(&mut b) {
                Some(v) => {
                    f(tag >> 3, v, &[]);
                    continue;
                }
                None => return,
            },
            1 => 8,
            2 => varint(&mut b).unwrap_or(u64::MAX),
            5 => 4,
            _ => return,
        };
        if n > b.len() as u64 {
            return;
        }
        let (bytes, rest) = b.split_at(n as usize);
        b = rest;
        f(tag >> 3, 0, bytes);
    }
}

fn field(b: &[u8], number: u64) -> &[u8] {
    let mut found: &[u8] = &[];
    each(b, |n, _, bytes| {
        if n == number {
            found = bytes;
        }
    });
    found
}

fn put_varint(m: &mut Vec<u8>, mut v: u64) {
    while v > 0x7f {
        m.push(v as u8 | 0x80);
        v >>= 7;
    }
    m.push(v as u8);
}

fn put_number(m: &mut Vec<u8>, number: u64, v: u64) {
    put_varint(m, number << 3);
    put_varint(m, v);
}

fn put_text(m: &mut Vec<u8>, number: u64, s: &str) {
    put_varint(m, number << 3 | 2);
    put_varint(m, s.len() as u64);
    m.extend_from_slice(s.as_bytes());
}

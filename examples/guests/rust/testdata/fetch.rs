//! Answers with what it finds at the setting url.
#[macro_use]
#[path = "../sluice.rs"]
mod sluice;
use sluice::{emit_finish, emit_text, fail, fetch, member, Request, Result};

plugin!("try", "0.1.0", |_: &str| Ok(()), generate);

fn generate(req: &Request) -> Result {
    let url = member(&req.settings, "url").unwrap_or("").trim_matches('"');
    let headers = [("Authorization", "Bearer ${secret:KEY}"), ("X-Job", "bench")];
    let mut response = fetch("POST", url, &headers, b"a body")?;
    if response.status != 202 {
        return fail("unavailable", "the status is another");
    }
    let mut piece = [0; 4096];
    loop {
        match response.read(&mut piece)? {
            0 => return emit_finish("stop"),
            n => emit_text(&String::from_utf8_lossy(&piece[..n]))?,
        }
    }
}

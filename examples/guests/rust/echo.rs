//! A provider in Rust: it answers with the prompt, word by word, as the bundled
//! echo does.
#[macro_use]
mod sluice;
use sluice::{emit_finish, emit_text, emit_usage, invalid, member, pause, Request, Result};

plugin!("rust-echo", "1.0.0", configure, generate);

/// The host asks whether it can be used with the operator's settings.
fn configure(settings: &str) -> Result {
    whole(member(settings, "delay_ms"), 0, "setting delay_ms").map(|_| ())
}

fn generate(req: &Request) -> Result {
    let words = split(&req.prompt);
    let mut tokens = whole(req.option("tokens"), words.len() as u64, "option tokens")?;
    if words.is_empty() {
        tokens = 0;
    }
    let delay = req.option("delay_ms").or_else(|| member(&req.settings, "delay_ms"));
    let delay = whole(delay, 30, "option delay_ms")?;
    let mut reason = "stop";
    if req.max_tokens > 0 && tokens > req.max_tokens {
        tokens = req.max_tokens;
        reason = "length";
    }
    while req.option("stall").is_some() {
        pause(3_600_000); // until it is cancelled
    }
    let again = words.first().map(|first| format!(" {}", first)).unwrap_or_default();
    for i in 0..tokens as usize {
        pause(delay);
        match i % words.len() {
            0 if i > 0 => emit_text(&again)?, // `?`: nobody wants the answer any more
            at => emit_text(words[at])?,
        }
    }
    if req.option("usage") != Some("false") {
        emit_usage(words.len() as u64, tokens)?;
    }
    emit_finish(reason) // the answer is whole
}

fn whole(json: Option<&str>, default: u64, what: &str) -> Result<u64> {
    match json.map(str::parse) {
        None => Ok(default),
        Some(Ok(v)) => Ok(v),
        Some(Err(_)) => invalid(&format!("{} is no whole number", what)),
    }
}

/// Cuts text into words, each with the space before it.
fn split(mut text: &str) -> Vec<&str> {
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

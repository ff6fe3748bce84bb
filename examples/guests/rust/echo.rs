//! A provider in Rust: it answers with the prompt, word by word, and does whatever
//! else an answer may hold when an option asks for it, as the bundled echo does.
#[macro_use]
mod sluice;
use sluice::*;
use std::cell::Cell;

plugin!("rust-echo", "1.0.0", configure, |req| answer(req, None), |req| answer(req, Some(&req.prefix)));

/// The host asks whether it can be used with the operator's settings.
fn configure(settings: &str) -> Result {
    whole(member(settings, "delay_ms"), 0, "setting delay_ms").map(|_| ())
}

fn answer(req: &Request, resumed: Option<&str>) -> Result {
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
    let wanted = |name| req.option(name).filter(|json| *json != "false");
    let (said, mut thought) = (Cell::new(0), 0);
    let say = |token: &str, emit: fn(&str) -> Result| {
        pause(delay);
        said.set(said.get() + 1);
        emit(token) // an error: nobody wants the answer any more
    };

    if let (Some(option), None) = (wanted("reasoning"), resumed) {
        let text = string(option).unwrap_or_else(|| "The user wants to hear it again.".into());
        split(&text).into_iter().try_for_each(|word| say(word, |t| emit_reasoning(t, "")))?;
        emit_reasoning("", "echo")?;
        thought = said.get();
    }
    if let Some(option) = wanted("refusal") {
        let text = string(option).unwrap_or_else(|| "I would rather not repeat that.".into());
        split(&text).into_iter().try_for_each(|word| say(word, emit_refusal))?;
        reason = "refusal";
    } else {
        let (mut prefix, again) = (resumed.unwrap_or(""), format!(" {}", words.first().unwrap_or(&"")));
        let trouble = ["error", "cut", "stall"].iter().find_map(|name| Some((*name, wanted(name)?)));
        let after = trouble.map_or(Ok(u64::MAX), |(_, option)| whole(member(option, "after"), 0, "after"))?;
        for i in 0..=tokens {
            match trouble {
                Some((name, option)) if i == after => return fall_into(name, option),
                _ if i == tokens => break,
                _ => {}
            }
            let at = i as usize % words.len();
            let word = if i > 0 && at == 0 { &again } else { words[at] };
            if let Some(rest) = prefix.strip_prefix(word) {
                prefix = rest; // said before
            } else if let Some(rest) = word.strip_prefix(std::mem::take(&mut prefix)) {
                say(rest, emit_text)?;
            } else {
                return fail("invalid", "the prefix is not the beginning of this answer");
            }
        }
        if !prefix.is_empty() {
            return fail("invalid", "the prefix is longer than this answer");
        }
        if let Some(call) = wanted("tool_call") {
            let name = string(member(call, "name").unwrap_or(call)).unwrap_or_else(|| "echo".into());
            say(&name, |name| emit_tool_call("call_1", name, "", false))?;
            let arguments = pieces(member(call, "arguments").unwrap_or(r#"{"text":"echo"}"#), 8);
            arguments.into_iter().try_for_each(|piece| say(piece, |piece| emit_tool_call("", "", piece, false)))?;
            emit_tool_call("", "", "", true)?;
            reason = "tool_calls";
        }
    }
    if req.option("usage") != Some("false") {
        emit_usage(words.len() as u64, said.get(), thought)?;
    }
    emit_finish(reason) // the answer is whole
}

/// Ends the call in the way that was asked for.
fn fall_into(trouble: &str, option: &str) -> Result {
    while trouble == "stall" {
        pause(3_600_000); // until it is cancelled
    }
    if trouble == "cut" {
        return fail("truncated", "cut, as asked");
    }
    let text = |name| member(option, name).and_then(string).unwrap_or_default();
    let number = |name| whole(member(option, name), 0, name);
    let (kind, fault, message, code) = (text("kind"), text("fault"), text("message"), text("code"));
    Err(Stop::Failed(Failure { kind, fault, message, code, wait_ms: number("wait_ms")?, status: number("status")? }))
}

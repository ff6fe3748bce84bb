// A provider in AssemblyScript: it answers with the prompt, word by word, and does
// whatever else an answer may hold when an option asks for it, as the bundled echo
// does.
import {
  Request, describe, emitFinish, emitReasoning, emitRefusal, emitText, emitToolCall, emitUsage, encode, fail, invalid, member, pause, pieces, settings, split, unquote, whole,
} from "./sluice";
export { sluice_abi } from "./sluice";

export function sluice_describe(): i32 {
  return describe("assemblyscript-echo", "1.0.0", true);
}

/** The host asks whether it can be used with the operator's settings. */
export function sluice_configure(): i32 {
  return whole(member(settings(), "delay_ms"), 0) < 0 ? invalid("setting delay_ms is no whole number of milliseconds") : 0;
}

export function sluice_generate(): i32 {
  return answer(new Request(), false);
}

export function sluice_resume(): i32 {
  return answer(new Request(), true);
}

// An instance serves one call, so what belongs to a call may be global.
let delay: i64 = 30, said = 0; // milliseconds; tokens

/** Says words, each at its time. All that emits returns 0, or why to end: mostly that nobody wants the answer any more. */
function say(words: string[], emit: (word: string) => i32): i32 {
  let r = 0;
  for (let i = 0; i < words.length && r == 0; i++, said++) {
    pause(delay);
    r = emit(words[i]);
  }
  return r;
}

/** The words of an option that is a text, or true for a text of our own. */
function wordsOf(option: string, own: string): string[] {
  return split(option == "true" ? own : unquote(option));
}

function answer(req: Request, resumed: bool): i32 {
  const words = split(req.prompt), n = words.length;
  let tokens: i64 = n == 0 ? 0 : whole(req.option("tokens"), n), reason = "stop", r = 0;
  if (tokens < 0) return invalid("option tokens is no whole number");
  delay = whole(req.option("delay_ms"), whole(member(req.settings, "delay_ms"), 30));
  if (delay < 0) return invalid("option delay_ms is no whole number of milliseconds");
  if (req.maxTokens > 0 && <u64>tokens > req.maxTokens) {
    tokens = <i64>req.maxTokens;
    reason = "length";
  }
  const reasoning = resumed ? "" : req.wanted("reasoning"), refusal = req.wanted("refusal"), call = req.wanted("tool_call");
  if (reasoning != "") {
    r = say(wordsOf(reasoning, "The user wants to hear it again."), (word) => emitReasoning(word, ""));
    if (r == 0) r = emitReasoning("", "echo");
  }
  const thought = said;
  if (r == 0 && refusal != "") {
    r = say(wordsOf(refusal, "I would rather not repeat that."), (word) => emitRefusal(encode(word)));
    reason = "refusal";
  } else if (r == 0) {
    const error = req.wanted("error"), stall = req.wanted("stall"), trouble = error + stall + req.wanted("cut");
    const after: i64 = trouble == "" ? -1 : whole(member(trouble, "after"), 0);
    let prefix = resumed ? req.prefix : "";
    if (n > 0) words.push(" " + words[0]); // for the second time and later
    const texts = words.map<ArrayBuffer>((word) => encode(word));
    for (let i: i64 = 0; r == 0; i++) {
      if (i == after) return fall(error, stall);
      if (i == tokens) break;
      const at = i > 0 && i % n == 0 ? n : <i32>(i % n), known = min(prefix.length, words[at].length);
      if (!words[at].startsWith(prefix.substring(0, known))) return invalid("the prefix is not the beginning of this answer");
      prefix = prefix.substring(known);
      if (known == words[at].length) continue;
      pause(delay);
      said++;
      r = emitText(known > 0 ? encode(words[at].substring(known)) : texts[at]);
    }
    if (r == 0 && prefix != "") return invalid("the prefix is longer than this answer");
    if (r == 0 && call != "") {
      const name = unquote(call) + unquote(member(call, "name")), args = member(call, "arguments");
      r = say([name == "" ? "echo" : name], (name) => emitToolCall("call_1", name, "", false));
      if (r == 0) r = say(pieces(args == "" ? '{"text":"echo"}' : args, 8), (piece) => emitToolCall("", "", piece, false));
      if (r == 0) r = emitToolCall("", "", "", true);
      reason = "tool_calls";
    }
  }
  if (r == 0 && req.option("usage") != "false") r = emitUsage(n, said, thought);
  return r == 0 ? emitFinish(reason) : r; // 0: the answer is whole
}

/** Ends the call in the way that was asked for. */
function fall(error: string, stall: string): i32 {
  while (stall != "") pause(3_600_000); // until it is cancelled
  if (error == "") return fail("truncated", "", "cut, as asked");
  const kind = unquote(member(error, "kind")), fault = unquote(member(error, "fault")), code = unquote(member(error, "code"));
  return fail(kind, fault, unquote(member(error, "message")), whole(member(error, "wait_ms"), 0), whole(member(error, "status"), 0), code);
}

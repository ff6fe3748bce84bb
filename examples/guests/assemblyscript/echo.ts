// A provider in AssemblyScript: it answers with the prompt, word by word, as
// the bundled echo does.
import { Request, describe, emitFinish, emitText, emitUsage, encode, fail, member, pause, settings } from "./sluice";
export { sluice_abi } from "./sluice";

export function sluice_describe(): i32 {
  return describe("assemblyscript-echo", "1.0.0");
}

/** The host asks whether it can be used with the operator's settings. */
export function sluice_configure(): i32 {
  if (whole(member(settings(), "delay_ms"), 0) < 0)
    return fail("invalid", "caller", "setting delay_ms is no whole number of milliseconds");
  return 0;
}

export function sluice_generate(): i32 {
  const req = new Request();
  const words = split(req.prompt);
  let tokens = whole(req.option("tokens"), words.length);
  if (tokens < 0) return fail("invalid", "caller", "option tokens is no whole number");
  if (words.length == 0) tokens = 0;
  const delay = whole(req.option("delay_ms"), whole(member(req.settings, "delay_ms"), 30));
  if (delay < 0) return fail("invalid", "caller", "option delay_ms is no whole number of milliseconds");
  let reason = "stop";
  if (req.maxTokens > 0 && <u64>tokens > req.maxTokens) {
    tokens = <i64>req.maxTokens;
    reason = "length";
  }
  while (req.option("stall") != "") pause(3_600_000); // until it is cancelled

  const texts = new Array<ArrayBuffer>();
  for (let i = 0; i < words.length; i++) texts.push(encode(words[i]));
  const again = encode(words.length > 0 ? " " + words[0] : "");
  for (let i = 0, at = 0; i < <i32>tokens; i++, at++) {
    if (at == words.length) at = 0;
    pause(delay);
    const r = emitText(i > 0 && at == 0 ? again : texts[at]);
    if (r < 0) return r; // nobody wants the answer any more
  }
  if (req.option("usage") != "false") {
    const r = emitUsage(words.length, tokens);
    if (r < 0) return r;
  }
  return emitFinish(reason); // 0: the answer is whole
}

/** Reads a JSON number that is whole and not negative; -1 if it is something else. */
function whole(json: string, otherwise: i64): i64 {
  if (json == "") return otherwise;
  if (json.length > 9) return -1;
  for (let i = 0; i < json.length; i++) if (json.charCodeAt(i) < 48 || json.charCodeAt(i) > 57) return -1;
  return I64.parseInt(json);
}

function space(c: i32): bool {
  return c == 0x20 || c == 0x09 || c == 0x0d || c == 0x0a;
}

/** Cuts text into words, each with the space before it. */
function split(text: string): Array<string> {
  const words = new Array<string>();
  for (let at = 0; at < text.length; ) {
    const from = at;
    while (at < text.length && space(text.charCodeAt(at))) at++;
    while (at < text.length && !space(text.charCodeAt(at))) at++;
    words.push(text.substring(from, at));
  }
  return words;
}

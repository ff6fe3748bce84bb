// Answers with what it finds at the setting url.
import { Request, Response, describe, emitFinish, emitText, fail, failed, member } from "../sluice";
export { sluice_abi } from "../sluice";

export function sluice_describe(): i32 {
  return describe("try", "0.1.0", false);
}

export function sluice_configure(): i32 {
  return 0;
}

export function sluice_generate(): i32 {
  const url = member(new Request().settings, "url");
  const response = new Response("POST", url.substring(1, url.length - 1), ["Authorization", "Bearer ${secret:KEY}", "X-Job", "bench"], "a body");
  if (response.error < 0) return failed(response.error);
  if (response.status != 202) return fail("unavailable", "upstream", "the status is another");
  for (let piece = response.read(); piece; piece = response.read()) {
    const r = emitText(piece);
    if (r < 0) return r;
  }
  response.close();
  return response.error < 0 ? failed(response.error) : emitFinish("stop");
}

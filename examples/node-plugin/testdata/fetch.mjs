// Answers with what it finds at the address in the prompt.
import { fetch } from "../egress.mjs";
import { serve } from "../sluice.mjs";

serve({
  name: "fetch", version: "0.1.0",
  check() {},
  async *generate(request, signal) {
    const url = request.messages[0].parts[0].text;
    const response = await fetch(url, { method: "POST", headers: { Authorization: "Bearer ${secret:KEY}" }, body: "a body", signal });
    for await (const piece of response.setEncoding("utf8")) yield { text: piece };
    yield { finish: { reason: "stop", raw: String(response.statusCode) } };
  },
});

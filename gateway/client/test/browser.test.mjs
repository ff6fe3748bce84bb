// The bundle and the React hook where they run: in a browser, over reloads.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { need, start, words } from "./sluice.mjs";

const own = (path) => fileURLToPath(new URL(path, import.meta.url));

// site serves files to a browser and tells what the browser complains of.
async function site(t, files) {
  const server = createServer((req, res) => {
    const [type, body] = files[new URL(req.url, "http://x").pathname] ?? ["text/plain", ""];
    // The policy of the gateway's own page: the bundle has to live with it.
    const policy = "default-src 'none'; script-src 'self'; img-src data:; connect-src http://127.0.0.1:* ws://127.0.0.1:*";
    res.writeHead(body ? 200 : 404, { "Content-Type": type, "Content-Security-Policy": policy }).end(body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

async function browser(t) {
  const executablePath = need(t, "chromium");
  if (!executablePath) return null;
  const browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const complaints = [];
  page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") complaints.push(m.text()); });
  page.on("pageerror", (e) => complaints.push(String(e)));
  return { page, complaints };
}

const html = (script, content) => ["text/html", `<!doctype html><link rel="icon" href="data:,"><meta name="test" content='${JSON.stringify(content)}'><main></main><script type="module" src="${script}"></script>`];
const js = (body) => ["text/javascript", body];
const grows = (page, selector, length) => page.waitForFunction(([s, n]) => document.querySelector(s)?.textContent.length > n, [selector, length]);

test("a page with the bundle is reloaded in the middle, and the answer goes on", async (t) => {
  const shown = await browser(t);
  if (!shown) return;
  const { page, complaints } = shown;
  const files = {
    "/sluice.js": js(await readFile(own("../dist/sluice.js"))),
    "/page.js": js(`
      import { connect } from "./sluice.js";
      const { gateway, query, options } = JSON.parse(document.querySelector("meta[name=test]").content);
      const sluice = connect(gateway);
      const main = document.querySelector("main");
      window.restored = sluice.find("page") !== undefined;
      const answer = sluice.find("page") ?? sluice.ask(query, { ...options, key: "page" });
      window.resets = 0;
      window.first = answer.text.length;
      answer.on("reset", () => window.resets++);
      answer.on("change", () => (main.textContent = answer.text));
      answer.done.then((r) => { window.result = r; }, (e) => { window.result = e; });
    `),
  };
  const url = await site(t, files);
  const { url: gateway } = await start(t, { env: { SLUICE_GATEWAY__ORIGINS: url } });
  files["/"] = html("/page.js", { gateway, query: words(80), options: { model: "echo", params: { options: { delay_ms: 25 } } } });

  await page.goto(url);
  for (const length of [60, 200]) {
    await grows(page, "main", length);
    await page.reload();
    assert.equal(await page.evaluate(() => window.restored), true);
  }
  assert.ok(await page.evaluate(() => window.first) > 150, "what had arrived is there at once");
  await page.waitForFunction(() => window.result !== undefined);
  const { text, verified } = await page.evaluate(() => window.result);
  assert.deepEqual([text, verified, await page.textContent("main"), await page.evaluate(() => window.resets)], [words(80), true, words(80), 0]);
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(complaints, []);
});

test("a React page: two answers side by side, a reload, a cancel", async (t) => {
  const shown = await browser(t);
  if (!shown) return;
  const { page, complaints } = shown;
  const bundle = await build({ entryPoints: [own("react.page.mjs")], bundle: true, write: false, format: "esm", define: { "process.env.NODE_ENV": '"development"' } });
  const files = { "/page.js": js(bundle.outputFiles[0].text) };
  const url = await site(t, files);
  const { url: gateway } = await start(t, { env: { SLUICE_GATEWAY__ORIGINS: url } });
  files["/"] = html("/page.js", { gateway, query: words(60), options: { model: "echo", params: { options: { delay_ms: 30 } } } });

  await page.goto(url);
  assert.equal(await page.textContent("#left .state"), "idle");
  await page.click("#left .ask");
  await page.click("#right .ask");
  await grows(page, "#left .text", 50);
  await grows(page, "#right .text", 50);
  await page.reload();
  await grows(page, "#left .text", 50);
  await page.click("#right .cancel");
  await page.waitForFunction(() => document.querySelector("#right .state").textContent === "cancelled");
  await page.waitForFunction(() => document.querySelector("#left .state").textContent === "complete true 61");
  assert.equal(await page.textContent("#left .text"), `left ${words(60)}`);
  const part = await page.textContent("#right .text");
  assert.ok(part.length > 50 && `right ${words(60)}`.startsWith(part) && !part.includes("word59"));
  await page.click("#left .ask"); // again
  await page.waitForFunction(() => document.querySelector("#left .state").textContent === "running");
  assert.deepEqual(complaints, []);
});

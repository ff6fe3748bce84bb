// Signs in on the page and meets its limits, in a real browser, for the Go tests:
//
//   node signin.mjs URL CHROMIUM SCREENSHOTS MODEL SHORT-TOKEN LONG-TOKEN
//
// The short token is one of a session that ends within the minute, and its user may
// ask twice a minute.
import assert from "node:assert/strict";
import { audit, connected, fits, launch, run, visitor } from "./browser.mjs";

const [url, executablePath, screenshots, model, short, long] = process.argv.slice(2);
const browser = await launch(executablePath);

await run(browser, screenshots, "signin", async () => {
  const { page, context, complaints } = await visitor(browser, url, { viewport: { width: 390, height: 844 } });
  const sign = async (token) => {
    await page.locator("#token").fill(token);
    await page.locator("#signin-go").click();
  };
  const why = (pattern) => page.waitForFunction((p) => document.querySelector("#signin").open && new RegExp(p).test(document.querySelector("#signin-why").textContent), pattern);
  await page.goto(url);
  await why("no token");
  assert.ok(await page.evaluate(() => document.activeElement.id === "token"));
  await page.screenshot({ path: `${screenshots}/signin-asked.png` });
  await audit(page, "sign in");
  await fits(page, "sign in");
  await sign("nonsense");
  await why("not a token");
  await sign(short);
  await connected(page);
  assert.equal(await page.locator("#signin").isVisible(), false);

  // The session is about to end and is renewed, without a break.
  await page.evaluate(() => {
    window.breaks = 0;
    new MutationObserver(() => window.breaks++).observe(document.querySelector("#link"), { attributes: true });
  });
  await page.locator("#renew").waitFor();
  await page.screenshot({ path: `${screenshots}/signin-renew.png` });
  await audit(page, "renew");
  await page.locator("#renew-go").click();
  await sign(long);
  await page.locator("#renew").waitFor({ state: "hidden" });

  const ask = async (query) => {
    await page.locator("#query").fill(query);
    await page.locator("#query").press("Control+Enter");
  };
  for (const query of ["one", "two"]) {
    await ask(query);
    await page.waitForFunction((q) => document.querySelector("#asked-query").textContent === q && document.querySelector('.column[data-state="complete"]'), query);
  }
  assert.equal(await page.evaluate(() => window.breaks), 0, "the connection was lost");
  await ask("three");
  const column = page.locator('.column[data-state="failed"]');
  await column.waitFor();
  assert.match(await column.locator(".failure").innerText(), /Too many questions/);
  const again = column.getByRole("button", { name: /Try again in \d+ s/ });
  await again.waitFor();
  assert.ok(await again.isDisabled());
  await page.screenshot({ path: `${screenshots}/signin-limited.png` });
  await audit(page, "limited");

  await page.reload();
  await connected(page);
  await page.locator("#side-open").click();
  await page.getByText("Signed in as ada").waitFor();
  await page.locator("#sign-out").click();
  await why("no token");
  assert.deepEqual(complaints, []);
  await context.close();
  console.log("signed in, renewed, limited, signed out");
});

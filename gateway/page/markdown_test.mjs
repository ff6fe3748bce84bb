// Tests of markdown.js, run by page_test.go with Node.

import assert from "node:assert/strict";
import test from "node:test";
import { blocks, inline, outlined, safe, settled } from "./markdown.js";

const plain = (nodes) => nodes.map((n) => (typeof n === "string" ? n : n.text ?? n.alt ?? plain(n.inline))).join("");
const shape = (nodes) => nodes.map((n) => (typeof n === "string" ? n : n.type === "code" ? ["code", n.text] : [n.type, ...shape(n.inline ?? [])]));
const kinds = (text) => blocks(text).map((b) => b.type);

test("emphasis, code and escapes", () => {
  for (const [text, want] of [
    ["a **b** c", ["a ", ["strong", "b"], " c"]],
    ["**a *b***", [["strong", "a ", ["em", "b"]]]],
    ["*a **b** c*", [["em", "a ", ["strong", "b"], " c"]]],
    ["__a__ _b_", [["strong", "a"], " ", ["em", "b"]]],
    ["~~gone~~", [["del", "gone"]]],
    ["snake_case_name and 2 * 3 * 4", ["snake_case_name and 2 * 3 * 4"]],
    ["`a*b*` ``c`d``", [["code", "a*b*"], " ", ["code", "c`d"]]],
    ["\\*not\\* \\`code\\`", ["*not* `code`"]],
    ["**open", ["**open"]],
    ["`open", ["`open"]],
    ["a ~ b ~~", ["a ~ b ~~"]],
  ]) assert.deepEqual(shape(inline(text)), want, text);
});

test("only http and https become links", () => {
  const hrefs = (text) => inline(text).filter((n) => n.type === "link").map((n) => n.href);
  assert.deepEqual(hrefs("[a](https://x.org/p) <https://y.org> see https://z.org/q?r=1."), ["https://x.org/p", "https://y.org/", "https://z.org/q?r=1"]);
  assert.deepEqual(hrefs("(https://en.wikipedia.org/wiki/A_(b)) and [w](https://w.org/A_(b) \"title\")"), ["https://en.wikipedia.org/wiki/A_(b)", "https://w.org/A_(b)"]);
  for (const evil of ["[a](javascript:alert(1))", "[a](JAVASCRIPT:alert(1))", "[a](data:text/html,x)", "[a](vbscript:x)", "[a](/relative)", "[a](//host/x)", "[a](\u0001javascript:x)", "<javascript:x>", "[a](file:///etc/passwd)", "[a](blob:x)"]) {
    assert.deepEqual(hrefs(evil), [], evil);
    assert.equal(plain(inline(evil)), evil); // stays as it was written
  }
  assert.equal(safe("https://ok.org"), "https://ok.org/");
  assert.equal(safe("java\nscript:alert(1)"), "");
  assert.deepEqual(shape(inline("[a [b](https://in.org) c](https://out.org)")), [["link", "a [b](https://in.org) c"]]); // no link in a link
});

test("pictures of other servers are links, and only plain pictures are shown", () => {
  const [ok] = inline("![alt](data:image/png;base64,AAAA)");
  assert.deepEqual(ok, { type: "image", href: "data:image/png;base64,AAAA", alt: "alt" });
  assert.equal(inline("![a](https://x.org/i.png)")[0].type, "link");
  for (const no of ["![a](data:image/svg+xml;base64,AAAA)", "![a](data:text/html;base64,AAAA)", "![a](javascript:x)"]) assert.equal(plain(inline(no)), no);
});

test("markup is text", () => {
  const text = "<b>bold</b> <img src=x onerror=alert(1)> <script>x</script> &amp;";
  assert.deepEqual(inline(text), [text]);
  assert.deepEqual(kinds("<table><tr><td>x"), ["p"]);
});

test("blocks", () => {
  assert.deepEqual(kinds("# a\n\ntext\nmore\n\n---\n> q\n\n```go\nx\n```\n- a\n- b\n\n1. c\n"), ["heading", "p", "rule", "quote", "code", "list", "list"]);
  const [code] = blocks("```go\n# not a heading\n\n- no list\n```\nafter");
  assert.deepEqual([code.language, code.text, code.open], ["go", "# not a heading\n\n- no list", false]);
  assert.equal(blocks("````\n```\ninner\n```\n````")[0].text, "```\ninner\n```");
  assert.deepEqual([blocks("```\nopen")[0].text, blocks("```\nopen")[0].open], ["open", true]);
});

test("lists nest, hold blocks and tasks", () => {
  const [l] = blocks("1. one\n   - deep\n     still deep\n   - [x] done\n2. two\n\n   ```\n   code\n   ```\n3. three");
  assert.deepEqual([l.ordered, l.items.length], [true, 3]);
  const deep = l.items[0].blocks[1];
  assert.deepEqual([deep.type, deep.items.length, deep.items[1].checked], ["list", 2, true]);
  assert.equal(l.items[1].blocks[1].text, "code");
  assert.equal(blocks("4. a\n5. b")[0].first, 4);
  assert.deepEqual(kinds("- a\n1. b"), ["list", "list"]);
  assert.deepEqual(kinds("- a\n\ntext"), ["list", "p"]);
  assert.equal(blocks("- a\n\n- b")[0].items.length, 2);
});

test("tables", () => {
  const [t] = blocks("| a | b | c |\n|:-|:-:|-:|\n| `x|y` | 1 \\| 2 |\n| p | q | r | s |");
  assert.deepEqual(t.align, ["left", "center", "right"]);
  assert.deepEqual(t.rows.map((r) => r.map(plain)), [["x|y", "1 | 2", ""], ["p", "q", "r"]]);
  assert.deepEqual(kinds("a | b\nno rule"), ["p"]);
});

test("every block tells where it starts, at every length of a text", () => {
  const text = "# h\n\npara *x*\n\n- a\n  - b\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nlet a\n\nlet b\n```\n\n> q\n> r\n\nend";
  for (let n = 0; n <= text.length; n++) {
    const part = text.slice(0, n);
    const all = blocks(part);
    let before = -1;
    for (const b of all) {
      assert.ok(b.start > before && b.start < part.length, `${n}: ${b.start}`);
      before = b.start;
    }
    // What comes from the last block on reads the same alone: that is all that
    // is read again when a text grows.
    if (all.length) assert.deepEqual(blocks(part.slice(all.at(-1).start)).map((b) => b.type), [all.at(-1).type], part);
  }
});

// A pattern that backtracks would take minutes, and the caller loses its patience.
test("hostile texts end soon", () => {
  const n = 19_000;
  for (const text of ["*".repeat(n), "**a".repeat(n / 3), "_a ".repeat(n / 3), "[".repeat(n), "[a](".repeat(n / 4), "![".repeat(n / 2), "`a``b".repeat(n / 5), "<".repeat(n), "\\".repeat(n), "h".repeat(n), "https://".repeat(n / 8), "((((https://a" + ")".repeat(n), "> ".repeat(n / 2), "- ".repeat(n / 2), "|".repeat(n) + "\n|" + "-|".repeat(n / 2), "1. ".repeat(n / 3)]) {
    assert.ok(blocks(text).length > 0);
  }
});

test("headings are as deep as they are nested, whatever their levels", () => {
  let above = [];
  const depth = (level) => (above = outlined(above, level)).length;
  assert.deepEqual([2, 4, 4, 3, 2, 1, 6, 2, 1].map(depth), [1, 2, 2, 2, 1, 1, 2, 2, 1]);
});

test("of a text that grows no loose marks are shown, and nothing is kept for long", () => {
  for (const [text, want] of [
    ["a", "a"], ["a\n-", "a\n"], ["a\n- ", "a\n"], ["- [", ""], ["- [ ]", ""], ["- [x] ", ""], ["- [x] d", "- [x] d"], ["- a", "- a"],
    ["##", ""], ["## T", "## T"], [">", ""], ["12.", ""], ["12. a", "12. a"], ["``", ""], ["```", "```"], ["a - ", "a - "], ["-5", "-5"],
    ["a\n\n| g", "a\n\n"], ["a\n\n| g | s |\n", "a\n\n"], ["| g | s |\n|--", ""], ["| g | s |\n|---|---|\n", "| g | s |\n|---|---|\n"],
    ["| g | s |\n|---|---|\n| u", "| g | s |\n|---|---|\n| u"], ["a | b", "a | b"], ["", ""], ["|", ""], ["\n", "\n"],
    ["```\n-", "```\n-"], ["```\n| a", "```\n| a"], ["```\nx\n```\n-", "```\nx\n```\n"], ["~~~\n#", "~~~\n#"],
  ]) assert.equal(settled(text), want, JSON.stringify(text));
  // What was shown stays, and what is whole is shown as it is.
  const whole = "## T\n\n- [ ] a\n- b\n\n| g | s |\n|---|:-:|\n| 1 | 2 |\n\n```go\n- | x\n```\n\n1. one\n2. two\n\n> q\n";
  for (let i = 1, before = ""; i <= whole.length; i++) {
    const now = settled(whole.slice(0, i));
    assert.ok(now.startsWith(before), JSON.stringify([before, now]));
    assert.ok(whole.startsWith(now) && i - now.length < 24);
    before = now;
  }
  assert.equal(settled(whole), whole);
});

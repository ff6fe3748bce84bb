// Makes a guest out of a script: node build.mjs plugin.js plugin.wasm
//
// The engine, the glue and the scripts become one module, which exports what the
// host calls and nothing else.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const tool = (name, ...args) => execFileSync(here(`../../node_modules/.bin/${name}`), args, { stdio: ["ignore", "ignore", "inherit"] });
const [source, out] = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), "sluice-js-"));
const at = (name) => join(dir, name);

// names of the host's functions, and the file name and text of each script
const texts = ["eiolxhHrcsntb", "prelude.js", readFileSync(here("prelude.js")), basename(source), readFileSync(source)].map((t) => Buffer.concat([Buffer.from(t), Buffer.of(0)]));
const quoted = (b) => `"${[...b].map((c) => "\\" + c.toString(16).padStart(2, "0")).join("")}"`;
const each = (f) => texts.map((t, i) => `(if (i32.eq (local.get $which) (i32.const ${i})) (then ${f(t, i)}))`).join("\n");

try {
  writeFileSync(at("script.wat"), `(module
    (import "env" "memory" (memory 0))
    ${texts.map((t, i) => `(data $t${i} ${quoted(t)})`).join("\n")}
    (func (export "script_size") (param $which i32) (result i32)
      ${each((t) => `(return (i32.const ${t.length}))`)}
      (unreachable))
    (func (export "script_copy") (param $which i32) (param $to i32)
      ${each((t, i) => `(memory.init $t${i} (local.get $to) (i32.const 0) (i32.const ${t.length}))`)}))`);
  tool("wasm-as", "--enable-bulk-memory", at("script.wat"), "-o", at("script.wasm"));
  tool("asc", here("glue.ts"), "-O3", "--runtime", "stub", "--importMemory", "--noExportMemory", "--use", "abort=", "-o", at("glue.wasm"));
  const modules = [here("../../node_modules/quickjs-wasi/quickjs.wasm"), at("glue.wasm"), at("script.wasm")];
  tool("wasm-merge", ...modules.flatMap((m) => [m, "env"]), "--all-features", "-o", at("all.wasm"));
  const keep = ["memory", "_initialize", ...["abi", "warm", "describe", "configure", "generate", "resume", "count_tokens"].map((name) => "sluice_" + name)];
  writeFileSync(at("keep.json"), JSON.stringify(keep.map((name) => ({ name, export: name, root: true }))));
  tool("wasm-metadce", at("all.wasm"), "--all-features", "--graph-file", at("keep.json"), "-o", out);
} finally {
  rmSync(dir, { recursive: true });
}

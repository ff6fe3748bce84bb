// Makes the engine of all JavaScript guests: node engine.mjs engine.wasm
//
// The npm engine, the glue, prelude.js and an empty place for a script become one
// module, which exports what the host calls and nothing else. `sluice plugin build`
// puts the script in.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const tool = (name, ...args) => execFileSync(here(`../../node_modules/.bin/${name}`), args, { stdio: ["ignore", "ignore", "inherit"] });
const dir = mkdtempSync(join(tmpdir(), "sluice-js-"));
const at = (name) => join(dir, name);

/** Their sizes, then the texts with a zero each: what glue.ts reads, as a string of a .wat. */
function texts(...all) {
  all = all.map((t) => Buffer.concat([Buffer.from(t), Buffer.of(0)]));
  const sizes = Buffer.alloc(4 * all.length);
  all.forEach((t, i) => sizes.writeUInt32LE(t.length, 4 * i));
  return Buffer.concat([sizes, ...all]).toString("hex").replace(/../g, "\\$&");
}

try {
  // The place is the last of the data, where host/manifest/script.go looks for it.
  writeFileSync(at("texts.wat"), `(module
    (import "env" "memory" (memory 0))
    (data $prelude "${texts("weiolxhHrcsntb", "prelude.js", readFileSync(here("prelude.js")))}")
    (data $script "here goes the script of a plugin")
    (func (export "prelude") (param $to i32) (param $n i32)
      (memory.init $prelude (local.get $to) (i32.const 0) (local.get $n)))
    (func (export "script") (param $to i32) (param $n i32)
      (memory.init $script (local.get $to) (i32.const 0) (local.get $n))))`);
  tool("wasm-as", "--enable-bulk-memory", at("texts.wat"), "-o", at("texts.wasm"));
  tool("asc", here("glue.ts"), "-O3", "--runtime", "stub", "--importMemory", "--noExportMemory", "--use", "abort=", "-o", at("glue.wasm"));
  // All under one name, as each imports from the others.
  const modules = [here("../../node_modules/quickjs-wasi/quickjs.wasm"), at("glue.wasm"), at("texts.wasm")];
  tool("wasm-merge", ...modules.flatMap((m) => [m, "env"]), "--all-features", "-o", at("all.wasm"));
  const keep = ["memory", "_initialize", ...["abi", "warm", "describe", "configure", "generate", "resume", "count_tokens"].map((name) => "sluice_" + name)];
  writeFileSync(at("keep.json"), JSON.stringify(keep.map((name) => ({ name, export: name, root: true }))));
  tool("wasm-metadce", at("all.wasm"), "--all-features", "--graph-file", at("keep.json"), "-o", process.argv[2]);
} finally {
  rmSync(dir, { recursive: true });
}

// Makes a guest out of a script: node build.mjs engine.wasm plugin.js plugin.wasm
//
// The scripts take the place that engine.mjs left for them at the end of the
// module's data. See https://webassembly.github.io/spec/core/binary/modules.html
import { readFileSync, realpathSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";

export const place = "here are the scripts of a plugin";
const DATA = 11; // the section's id

function number(n) { // unsigned LEB128
  const out = [];
  for (; n > 127; n = Math.floor(n / 128)) out.push((n % 128) | 128);
  return Buffer.from([...out, n]);
}

function sized(...parts) {
  const b = Buffer.concat(parts);
  return Buffer.concat([number(b.length), b]);
}

function build(engine, ...texts) {
  for (let at = 8; at < engine.length; ) {
    const id = engine[at++], start = at;
    let size = 0;
    for (let scale = 1; ; scale *= 128) {
      const b = engine[at++];
      size += (b & 127) * scale;
      if (b < 128) break;
    }
    const end = at + size, mine = sized(Buffer.from(place));
    if (id === DATA && engine.subarray(0, end).indexOf(mine) === end - mine.length) {
      // 5 sizes, then the texts: what glue.ts reads
      const all = texts.map((t) => Buffer.concat([Buffer.from(t), Buffer.of(0)]));
      const sizes = Buffer.alloc(4 * all.length);
      all.forEach((t, i) => sizes.writeUInt32LE(t.length, 4 * i));
      const section = sized(engine.subarray(at, end - mine.length), sized(sizes, ...all));
      return Buffer.concat([engine.subarray(0, start), section, engine.subarray(end)]);
    }
    at = end;
  }
  throw new Error("this is no engine made by engine.mjs");
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [engine, source, out] = process.argv.slice(2);
  const prelude = readFileSync(new URL("prelude.js", import.meta.url));
  writeFileSync(out, build(readFileSync(engine), "weiolxhHrcsntb", "prelude.js", prelude, basename(source), readFileSync(source)));
}

// Writes the one file for pages without a build step: an ES module that holds the client and socket.io-client.
//
//   node bundle.mjs dist/sluice.js
import { build } from "esbuild";

await build({
  entryPoints: [new URL("src/index.ts", import.meta.url).pathname],
  outfile: process.argv[2],
  absWorkingDir: new URL(".", import.meta.url).pathname,
  bundle: true,
  minify: true,
  format: "esm",
  platform: "browser",
  target: "es2022",
  legalComments: "none",
  tsconfigRaw: { compilerOptions: { target: "ES2022" } },
  banner: { js: "/* @sluice/client, with socket.io-client (MIT, (c) Automattic and contributors). Made by npm run build: don't edit. */" },
});

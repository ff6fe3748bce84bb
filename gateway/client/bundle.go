// Package client holds the browser's side of the gateway: the npm package
// @sluice/client, written in TypeScript (README.md). For Go there is only its
// bundle, so that the gateway's page can be served with it.
package client

import _ "embed"

// Bundle is dist/sluice.js: one ES module with the client and socket.io-client
// in it, for `import { connect } from "./sluice.js"`. It asks nothing of other
// servers, and needs no eval and no inline script.
//
//go:embed dist/sluice.js
var Bundle []byte

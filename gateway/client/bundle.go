// Package client holds the browser's side of the gateway: the npm package
// @sluice/client, written in TypeScript (README.md). For Go there is only its
// bundle, so that the gateway's page can be served with it, and the Socket.IO
// client that every Socket.IO server serves.
package client

import _ "embed"

// Bundle is dist/sluice.js: one ES module with the client and socket.io-client
// in it, for `import { connect } from "./sluice.js"`. It asks nothing of other
// servers, and needs no eval and no inline script.
//
//go:embed dist/sluice.js
var Bundle []byte

// SocketIO is dist/socket.io.min.js of the npm package socket.io-client, and
// SocketIOModule its dist/socket.io.esm.min.js: the version that the package
// depends on, unchanged but for the reference to a source map. Their licence
// (MIT) is in their heads.
var (
	//go:embed served/socket.io.min.js
	SocketIO []byte
	//go:embed served/socket.io.esm.min.js
	SocketIOModule []byte
)

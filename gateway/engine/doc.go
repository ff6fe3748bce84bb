// Package engine is an Engine.IO v4 server, over WebSocket and HTTP long-polling,
// that carries a Socket.IO server of github.com/zishang520/socket.io/v2.
package engine

// Package engine is an Engine.IO v4 server, over WebSocket and HTTP long-polling,
// that carries a Socket.IO server of github.com/zishang520/socket.io/v2.
//
// # Why an engine of our own?
//
// The library's own can be crashed by a stranger (an early pong, an event without
// payload), handles the events of one client in no order, loses room broadcasts
// behind a pre-encoded frame and bounds neither bodies nor what waits for a slow
// client. Its Server.Bind takes any engine, so that namespaces, middleware, rooms
// and acknowledgements stay the library's.
//
// # Why frames of our own, and no WebSocket library?
//
// A message costs the same over github.com/coder/websocket, gorilla/websocket and
// this package, since nearly all of it is the system call (BenchmarkLayer). An
// idle connection takes 1.6 KB of heap here with its session, queues and
// heartbeat, against 2.3 KB (gorilla) and 10.5 KB (coder) for the socket alone,
// because buffers are taken from a pool only while there is something to read.
// What decided is what their interfaces leave no room for: to write frames that
// are shared between clients, all that waits in one call, without ever blocking
// the sender, and with the bytes that wait counted; and gorilla refuses a client
// that speaks before it has seen the handshake's answer. The price is a frame
// reader of some 100 lines. It is fuzzed against coder/websocket: the same bytes
// must give the same messages (FuzzFrames). There are no extensions: events are
// short, and permessage-deflate costs tens of kilobytes per connection.
//
// # How it is built
//
// A Conn is a session over whichever transport it has. Packets are validated where
// they are read (ParsePacket, Limits), wait in a bounded inbox, and are delivered
// one after another by a goroutine that exists only while there are any. Messages
// to the client wait in a bounded outbox; who adds to an idle one writes, as far as
// the kernel takes it, and a goroutine takes over for a client that is behind. One
// ticker watches all heartbeats and time limits. bind.go and zishang.go are the
// only files that know the library.
package engine

package engine

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"sync"
)

// Msg is one outbound packet, encoded once. It is immutable, so that any number
// of connections may share it.
type Msg struct {
	frame  []byte // a whole WebSocket frame, as it goes on the wire
	head   int    // length of the frame's header
	binary bool   // an attachment: base64 when polling
}

// Size is the number of bytes the message takes in an outbox.
func (m *Msg) Size() int { return len(m.frame) }

// NewEvent encodes the Socket.IO event name with args, each a JSON value that is
// sent as it is, for sockets in namespace ("/" or "" is the main one).
func NewEvent(namespace, name string, args ...json.RawMessage) *Msg {
	n := len(namespace) + len(name) + 20
	for _, a := range args {
		n += 1 + len(a)
	}
	frame, head := appendEvent(make([]byte, 0, n), namespace, name, args...)
	return &Msg{frame: frame, head: head}
}

// appendEvent appends an event's frame, whose header is so long.
func appendEvent(b []byte, namespace, name string, args ...json.RawMessage) (frame []byte, head int) {
	if namespace == "/" {
		namespace = ""
	}
	quoted := len(name) + 2
	var encoded []byte
	if !plain(name) {
		encoded, _ = json.Marshal(name) // a string always encodes
		quoted = len(encoded)
	}
	n := 2 + quoted + 2
	if namespace != "" {
		n += len(namespace) + 1
	}
	for _, a := range args {
		n += 1 + len(a)
	}
	b = appendHeader(b, opText, n)
	head = len(b)
	b = appendNamespace(append(b, '4', '2'), namespace)
	b = append(b, '[')
	if encoded != nil {
		b = append(b, encoded...)
	} else {
		b = append(append(append(b, '"'), name...), '"')
	}
	for _, a := range args {
		b = append(append(b, ','), a...)
	}
	return append(b, ']'), head
}

// recent encodes events for many connections: asked for the same one again, it
// returns the message it has made. The zero value is usable, and safe for
// concurrent use.
type recent struct {
	mu              sync.Mutex
	namespace, name string
	arg             json.RawMessage
	msg             *Msg // of the last call
}

// event is NewEvent with one argument, whose memory must not change any more: it is
// by this memory that the event of the last call is known again.
func (e *recent) event(namespace, name string, arg json.RawMessage) *Msg {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(arg) > 0 && len(e.arg) == len(arg) && &e.arg[0] == &arg[0] && e.name == name && e.namespace == namespace {
		return e.msg
	}
	e.namespace, e.name, e.arg, e.msg = namespace, name, arg, NewEvent(namespace, name, arg)
	return e.msg
}

// plain says that a string needs no escaping in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// NewPacket wraps an encoded Socket.IO packet, for example `2["hello"]`.
func NewPacket(packet []byte) *Msg {
	return newMsg(false, []byte{'4'}, packet)
}

// newAttachment wraps the bytes of one binary attachment.
func newAttachment(data []byte) *Msg { return newMsg(true, data) }

func appendNamespace(b []byte, namespace string) []byte {
	if namespace != "/" && namespace != "" {
		b = append(b, namespace...)
		b = append(b, ',')
	}
	return b
}

// newMsg frames the parts, which together are one Engine.IO packet (for text the
// first byte is its type; binary has none).
func newMsg(bin bool, parts ...[]byte) *Msg {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	op := byte(opText)
	if bin {
		op = opBinary
	}
	b := appendHeader(make([]byte, 0, n+10), op, n)
	head := len(b)
	for _, p := range parts {
		b = append(b, p...)
	}
	return &Msg{frame: b, head: head, binary: bin}
}

func appendHeader(b []byte, op byte, n int) []byte {
	b = append(b, 0x80|op)
	switch {
	case n <= 125:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

// controlMsg frames a WebSocket control message, which has no meaning when polling.
func controlMsg(op byte, data []byte) *Msg {
	b := appendHeader(make([]byte, 0, len(data)+2), op, len(data))
	return &Msg{frame: append(b, data...), head: 2, binary: false}
}

func (m *Msg) isPong() bool { return m.frame[0] == 0x80|opPong }

// appendPolling appends the packet as it stands in a polling payload.
func (m *Msg) appendPolling(b []byte) []byte {
	if !m.binary {
		return append(b, m.frame[m.head:]...)
	}
	return base64.StdEncoding.AppendEncode(append(b, 'b'), m.frame[m.head:])
}

var (
	msgPing  = newMsg(false, []byte("2"))
	msgProbe = newMsg(false, []byte("3probe"))
	msgNoop  = newMsg(false, []byte("6"))
	msgClose = newMsg(false, []byte("1"))
)

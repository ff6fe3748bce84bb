package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/zishang520/engine.io/v2/types"
	"github.com/zishang520/socket.io-go-parser/v2/parser"
)

var packetSeeds = []string{
	"0", `0{"token":"x"}`, "0/custom,", `0/custom,{"a":1}`, "1", "1/custom,", `2["message",1,{"a":[null,true]}]`, `2/custom,12["message"]`,
	"31[]", `3/custom,456["x"]`, `52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, `61-7[{"_placeholder":true,"num":0}]`,
	"2", "31", "3[]", "2{}", "51-", "5", "4{}", "2[]", `2["connect"]`, `2["\ud800"]`, "0[]", "01", "2/", "2/a,,[]", " ", "\x00", `2 [ "a" ]`,
}

// FuzzParsePacket holds the parser against the library's: whatever passes ours
// and Limits is taken by the library's decoder too, and means the same.
func FuzzParsePacket(f *testing.F) {
	for _, s := range packetSeeds {
		f.Add([]byte(s))
	}
	limits := Limits{}
	limits.setDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePacket(bytes.Clone(data))
		if err != nil || limits.Check(p) != nil || p.Attachments > 0 {
			return
		}
		var decoded *parser.Packet
		d := parser.NewParser().NewDecoder()
		d.On("decoded", func(args ...any) { decoded = args[0].(*parser.Packet) })
		if err := d.Add(types.NewStringBuffer(bytes.Clone(data))); err != nil || decoded == nil {
			t.Fatalf("%q passes, but not the library: %v", data, err)
		}
		if byte(decoded.Type) != p.Type || decoded.Nsp != p.Namespace || (decoded.Id == nil) != (p.ID < 0) || decoded.Id != nil && *decoded.Id != uint64(p.ID) {
			t.Fatalf("%q: %+v, the library says %+v", data, p, decoded)
		}
		switch p.Type {
		case TypeEvent, TypeBinaryEvent, TypeAck, TypeBinaryAck:
			args, err := p.arguments()
			if err != nil {
				return // a placeholder without its attachment
			}
			ours, _ := json.Marshal(args)
			theirs, _ := json.Marshal(decoded.Data)
			if string(ours) != string(theirs) {
				t.Fatalf("%q: %s, the library says %s", data, ours, theirs)
			}
			if (p.Type == TypeEvent || p.Type == TypeBinaryEvent) && args[0] != p.Event {
				t.Fatalf("%q: event %q of %v", data, p.Event, args)
			}
		}
	})
}

func FuzzSplitPayload(f *testing.F) {
	f.Add([]byte("40\x1e42[\"a\"]\x1ebAQID"))
	f.Add([]byte("\x1e\x1e"))
	f.Add([]byte("b=\x1eb"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var parts [][]byte
		splitPayload(body, func(p []byte) error {
			parts = append(parts, bytes.Clone(p))
			if len(p) > 0 && p[0] == 'b' {
				if data, err := decodeBase64(p[1:]); err == nil && len(data) > len(p) {
					t.Fatalf("%q grew to %d bytes", p, len(data))
				}
			}
			return nil
		})
		if got := bytes.Join(parts, []byte{separator}); !bytes.Equal(got, body) {
			t.Fatalf("%q came apart as %q", body, parts)
		}
	})
}

// hijacked serves one request whose connection yields data and takes anything.
type hijacked struct {
	http.ResponseWriter
	net.Conn
	data *bytes.Reader
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h, bufio.NewReadWriter(bufio.NewReader(h), bufio.NewWriter(h)), nil
}
func (h *hijacked) Write(b []byte) (int, error)      { return len(b), nil }
func (h *hijacked) Header() http.Header              { return http.Header{} }
func (h *hijacked) Close() error                     { return nil }
func (h *hijacked) SetDeadline(time.Time) error      { return nil }
func (h *hijacked) SetReadDeadline(time.Time) error  { return nil }
func (h *hijacked) SetWriteDeadline(time.Time) error { return nil }

// Read ends with an error: the library takes a plain EOF inside a frame for the
// end of the message.
func (h *hijacked) Read(b []byte) (int, error) {
	n, err := h.data.Read(b)
	if err != nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

type wsMessage struct {
	op   byte
	data string
}

const frameLimit = 1000

// libraryMessages is what a maintained WebSocket library makes of data.
func libraryMessages(t *testing.T, data []byte) []wsMessage {
	req := httptest.NewRequest("GET", "/", nil)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
		req.Header.Set(k, v)
	}
	h := &hijacked{ResponseWriter: httptest.NewRecorder(), data: bytes.NewReader(data)}
	ws, err := websocket.Accept(h, req, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(frameLimit)
	var all []wsMessage
	for {
		kind, b, err := ws.Read(context.Background())
		if err != nil {
			return all
		}
		op := byte(opText)
		if kind == websocket.MessageBinary {
			op = opBinary
		}
		all = append(all, wsMessage{op, string(b)})
	}
}

// ourMessages is what the reader makes of data arriving in pieces of step bytes.
func ourMessages(data []byte, step int) []wsMessage {
	var all []wsMessage
	var msg assembler
	var pending []byte
	for len(data) > 0 {
		n := min(step, len(data))
		pending, data = append(pending, data[:n]...), data[n:]
		for {
			op, fin, payload, n, err := parseFrame(pending, frameLimit)
			if err != nil || n > 0 && op == opClose {
				return all
			}
			if n == 0 {
				break
			}
			pending = pending[n:]
			if op > opClose {
				continue
			}
			op, m, whole, err := msg.add(op, fin, payload, frameLimit)
			if err != nil {
				return all
			}
			if whole {
				all = append(all, wsMessage{op, string(m)})
			}
		}
	}
	return all
}

// FuzzFrames holds the frame reader against the library's: the same bytes are the
// same messages, however they arrive.
func FuzzFrames(f *testing.F) {
	text := clientFrame(0x81, []byte("hello"))
	long := clientFrame(0x82, bytes.Repeat([]byte("x"), 300))
	f.Add(append(bytes.Clone(text), long...), 3)
	f.Add(append(clientFrame(0x01, []byte("a")), append(clientFrame(0x89, []byte("ping")), clientFrame(0x80, []byte("b"))...)...), 1)
	f.Add(append(bytes.Clone(text), clientFrame(0x88, []byte{3, 232})...), 100)
	f.Add(clientFrame(0x83, nil), 1)
	f.Add(clientFrame(0xc1, nil), 1)
	f.Add([]byte{0x81, 5, 'h'}, 1)
	f.Add([]byte{0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4}, 2)
	f.Add(clientFrame(0x80, []byte("no start")), 5)
	f.Add(append(clientFrame(0x01, []byte("a")), clientFrame(0x81, []byte("b"))...), 5)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		if step <= 0 || len(data) > 8000 {
			return
		}
		whole := ourMessages(bytes.Clone(data), len(data)+1)
		pieces := ourMessages(bytes.Clone(data), step)
		if !equalMessages(whole, pieces) {
			t.Fatalf("whole %q, in pieces %q", whole, pieces)
		}
		if theirs := libraryMessages(t, data); !equalMessages(whole, theirs) {
			t.Fatalf("ours %q, the library's %q", whole, theirs)
		}
	})
}

func equalMessages(a, b []wsMessage) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestMsgIsALibraryFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100_000} {
		payload := strings.Repeat("x", n)
		m := newMsg(n%2 == 1, []byte(payload))
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			res := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
			req, err := http.ReadRequest(bufio.NewReader(server))
			if err != nil {
				return
			}
			io.WriteString(server, res+acceptKey(req.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
			server.Write(m.frame)
		}()
		ws, _, err := websocket.Dial(context.Background(), "ws://pipe/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}}})
		if err != nil {
			t.Fatal(err)
		}
		ws.SetReadLimit(-1)
		kind, b, err := ws.Read(context.Background())
		if err != nil || string(b) != payload || (kind == websocket.MessageBinary) != m.binary || m.Size() != len(m.frame) {
			t.Errorf("%d bytes: %v %d, %v", n, kind, len(b), err)
		}
		ws.CloseNow()
	}
}

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Socket.IO v5 packet types, as the first byte of a packet.
const (
	TypeConnect      = '0'
	TypeDisconnect   = '1'
	TypeEvent        = '2'
	TypeAck          = '3'
	TypeConnectError = '4'
	TypeBinaryEvent  = '5'
	TypeBinaryAck    = '6'
)

// Packet is one Socket.IO v5 packet as a client sent it: split, but not decoded.
// https://socket.io/docs/v4/socket-io-protocol/
type Packet struct {
	Type        byte
	Attachments int    // binary messages that follow
	Namespace   string // "/" for the main one
	ID          int64  // of the acknowledgement asked for or given, -1 if none
	Data        []byte // JSON, nil if none
	Event       string // name of an event

	binaries [][]byte
}

// size is the memory held by the packet's content, in bytes.
func (p *Packet) size() int {
	n := len(p.Data) + len(p.Namespace) + 64
	for _, b := range p.binaries {
		n += len(b)
	}
	return n
}

// Limits bound what a Socket.IO packet may hold. A zero field takes the default
// in parentheses; a negative one allows none.
type Limits struct {
	Namespace   int // bytes of a namespace's name (128)
	Namespaces  int // joined by one connection (8)
	Event       int // bytes of an event's name (128)
	Depth       int // nesting of the JSON (32)
	Values      int // JSON values in one packet, counted by brackets and commas (50,000)
	Attachments int // binary attachments of one packet (10)
	Connect     int // bytes of a CONNECT packet: nobody has vouched for it yet (16 KiB)
	Queue       int // packets of one connection waiting for the application (128)
}

func (l *Limits) setDefaults() {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Namespace, 128)
	set(&l.Namespaces, 8)
	set(&l.Event, 128)
	set(&l.Depth, 32)
	set(&l.Values, 50_000)
	set(&l.Attachments, 10)
	set(&l.Connect, 16<<10)
	set(&l.Queue, 128)
}

// Check is the default judge of packets: it refuses what exceeds the limits.
func (l Limits) Check(p Packet) error {
	switch {
	case len(p.Namespace) > max(l.Namespace, 1):
		return errors.New("namespace too long")
	case len(p.Event) > l.Event:
		return errors.New("event name too long")
	case p.Attachments > max(l.Attachments, 0):
		return errors.New("too many attachments")
	case p.Type == TypeConnect && len(p.Data) > l.Connect:
		return fmt.Errorf("CONNECT: %w", errTooLarge)
	}
	return checkShape(p.Data, l.Depth, l.Values)
}

// checkShape bounds the nesting and the number of values of valid JSON, since
// both cost far more memory decoded than encoded.
func checkShape(data []byte, maxDepth, maxValues int) error {
	depth, values, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		c := data[i]
		if quoted {
			switch c {
			case '\\':
				i++
			case '"':
				quoted = false
			}
			continue
		}
		switch c {
		case '"':
			quoted = true
		case '[', '{':
			depth++
			values++
		case ',':
			values++
		case ']', '}':
			depth--
		}
		if depth > maxDepth {
			return errors.New("JSON nested too deep")
		}
		if values > maxValues {
			return errors.New("too many JSON values")
		}
	}
	return nil
}

// maxIDDigits keeps the ids of acknowledgements below 2^53, what a JavaScript
// client can count to.
const maxIDDigits = 15

// ParsePacket splits and validates one packet; the result shares memory with b.
// What it lets through, a Socket.IO server may receive from a client: the JSON
// is valid and of the kind that the type demands, an event has a name, and the
// name isn't reserved.
func ParsePacket(b []byte) (Packet, error) {
	p := Packet{ID: -1, Namespace: "/"}
	if len(b) == 0 {
		return p, errors.New("empty packet")
	}
	p.Type, b = b[0], b[1:]
	switch p.Type {
	case TypeBinaryEvent, TypeBinaryAck:
		n, digits := number(b)
		if digits == 0 || digits > 4 || digits == len(b) || b[digits] != '-' {
			return p, errors.New("bad number of attachments")
		}
		p.Attachments, b = int(n), b[digits+1:]
	case TypeConnect, TypeDisconnect, TypeEvent, TypeAck:
	case TypeConnectError:
		return p, errors.New("CONNECT_ERROR from a client")
	default:
		return p, fmt.Errorf("unknown packet type %q", p.Type)
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, _ := bytes.Cut(b, []byte{','})
		p.Namespace, b = string(name), rest
	}
	if n, digits := number(b); digits > maxIDDigits {
		return p, errors.New("id too long")
	} else if digits > 0 {
		p.ID, b = n, b[digits:]
	}
	if len(b) > 0 {
		if !json.Valid(b) {
			return p, errors.New("payload isn't JSON")
		}
		p.Data = b
	}
	return p, p.checkKind()
}

// number reads the decimal digits at the start of b. The value is meaningless
// for more than 18 of them.
func number(b []byte) (n int64, digits int) {
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		n = n*10 + int64(b[digits]-'0')
		digits++
	}
	return n, digits
}

// reserved are the events that a server or client raises itself.
var reserved = map[string]bool{"connect": true, "connect_error": true, "disconnect": true, "disconnecting": true}

// checkKind validates the payload for the packet's type and finds an event's name.
func (p *Packet) checkKind() error {
	data := bytes.TrimLeft(p.Data, " \t\r\n")
	kind := byte(0)
	if len(data) > 0 {
		kind = data[0]
	}
	switch p.Type {
	case TypeConnect:
		if p.ID >= 0 || kind != 0 && kind != '{' {
			return errors.New("CONNECT payload isn't an object")
		}
	case TypeDisconnect:
		if p.ID >= 0 || kind != 0 {
			return errors.New("DISCONNECT with a payload")
		}
	case TypeAck, TypeBinaryAck:
		if p.ID < 0 || kind != '[' {
			return errors.New("ACK without id or arguments")
		}
	default:
		if kind != '[' {
			return errors.New("event without arguments")
		}
		data = bytes.TrimLeft(data[1:], " \t\r\n")
		if data[0] != '"' {
			return errors.New("event without a name")
		}
		end := 1
		for data[end] != '"' {
			if data[end] == '\\' {
				end++
			}
			end++
		}
		if err := json.Unmarshal(data[:end+1], &p.Event); err != nil {
			return fmt.Errorf("event name: %w", err)
		}
		if reserved[p.Event] {
			return fmt.Errorf("event %q is reserved", p.Event)
		}
	}
	return nil
}

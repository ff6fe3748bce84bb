package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Kinds of Socket.IO packets, protocol revision 5:
// https://socket.io/docs/v4/socket-io-protocol/
const (
	packetConnect     = '0'
	packetDisconnect  = '1'
	packetEvent       = '2'
	packetAck         = '3'
	packetError       = '4'
	packetBinaryEvent = '5'
	packetBinaryAck   = '6'
)

// Limits of what a client may write into the head of a packet. Real clients
// stay far below: they have one namespace and count their acks from 0.
const (
	maxNamespace   = 128
	maxAttachments = 8
	maxEventName   = 128
)

// packet is one Socket.IO packet as a client sent it. Data is the JSON that
// followed the head, not checked yet, and a part of the parsed text.
type packet struct {
	Kind        byte
	Attachments int
	Namespace   string
	ID          int64 // of the ack that is asked for or answered, -1 = none
	Data        []byte
}

// parsePacket reads the head of a packet. It accepts exactly what the protocol
// allows: type, attachment count of binary packets, namespace, ack id, payload.
func parsePacket(text []byte) (packet, error) {
	p := packet{Namespace: "/", ID: -1}
	if len(text) == 0 {
		return p, errors.New("empty packet")
	}
	p.Kind = text[0]
	if p.Kind < packetConnect || p.Kind > packetBinaryAck {
		return p, fmt.Errorf("unknown packet type %q", p.Kind)
	}
	rest := text[1:]
	if p.Kind == packetBinaryEvent || p.Kind == packetBinaryAck {
		count, after, ok := bytes.Cut(rest, []byte{'-'})
		n, err := strconv.ParseUint(string(count), 10, 16)
		if !ok || err != nil || n > maxAttachments {
			return p, errors.New("bad attachment count")
		}
		p.Attachments, rest = int(n), after
	}
	if len(rest) > 0 && rest[0] == '/' {
		name, after, _ := bytes.Cut(rest, []byte{','})
		if len(name) > maxNamespace {
			return p, errors.New("namespace too long")
		}
		p.Namespace, rest = string(name), after
	}
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if digits > 0 {
		id, err := strconv.ParseInt(string(rest[:digits]), 10, 64)
		if err != nil {
			return p, errors.New("bad ack id")
		}
		p.ID, rest = id, rest[digits:]
	}
	if len(rest) > 0 {
		p.Data = rest
	}
	return p, nil
}

// event is one event of a client: a name and its arguments as raw JSON.
type event struct {
	Name string
	Args []json.RawMessage
	// Ack is the id the answer goes to, -1 when the client wants none.
	Ack int64
	// Binary says that an argument held bytes. They were dropped: no event of
	// the gateway takes any.
	Binary bool
}

// event reads the packet's payload, an array that begins with the name.
func (p packet) event() (event, error) {
	e := event{Ack: p.ID, Binary: p.Attachments > 0}
	var list []json.RawMessage
	if err := json.Unmarshal(p.Data, &list); err != nil {
		return e, fmt.Errorf("event payload: %w", err)
	}
	if len(list) == 0 {
		return e, errors.New("event without a name")
	}
	if err := json.Unmarshal(list[0], &e.Name); err != nil || e.Name == "" || len(e.Name) > maxEventName {
		return e, errors.New("bad event name")
	}
	e.Args = list[1:]
	return e, nil
}

// encodeEvent writes the packet of an event with one argument, which is JSON
// already: nothing is encoded here, so a frame costs one copy per socket.
func encodeEvent(name string, data []byte) []byte {
	b := make([]byte, 0, len(name)+len(data)+6)
	b = append(b, packetEvent, '[')
	b = appendName(b, name)
	b = append(b, ',')
	b = append(b, data...)
	return append(b, ']')
}

// encodeAck writes the packet that answers ack id with one JSON argument.
func encodeAck(id int64, data []byte) []byte {
	b := make([]byte, 0, len(data)+24)
	b = append(b, packetAck)
	b = strconv.AppendInt(b, id, 10)
	b = append(b, '[')
	b = append(b, data...)
	return append(b, ']')
}

func appendName(b []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(name) // a string always encodes
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"')
}

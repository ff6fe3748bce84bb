package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// HTTPRequest is a request to an upstream. The URL is absolute. A header value may hold
// ${secret:NAME}. Redirects are not followed.
type HTTPRequest struct {
	Method string // POST when empty and there is a body, else GET
	URL    string
	Header Header
	Body   []byte
}

// HTTPResponse is the answer, as soon as its head is there. The body streams; close it.
type HTTPResponse struct {
	Status int
	Header Header // lower-case names; values of a repeated header are joined with ", "
	Body   io.ReadCloser
}

// Header holds header fields by name.
type Header map[string]string

// Get finds a field whatever the case of its name.
func (h Header) Get(name string) string {
	if v, ok := h[name]; ok {
		return v
	}
	for k, v := range h {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// JSON encodes a request body. It panics on values that have no JSON, such as channels.
func JSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("sdk: JSON: " + err.Error())
	}
	return b
}

// Do sends a request and waits for the head of the response. Anything but a 2xx status is an
// [*Error], as are all that can go wrong on the way; reading the body reports [*Error] too, and
// Truncated when it breaks off.
func Do(ctx context.Context, req HTTPRequest) (*HTTPResponse, error) {
	if req.Method == "" {
		req.Method = "GET"
		if req.Body != nil {
			req.Method = "POST"
		}
	}
	resp, err := send(ctx, req)
	if err != nil {
		return nil, err
	}
	if resp.Status >= 200 && resp.Status < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if e := AsError(err); e != nil && e.Kind == Cancelled {
		return nil, e
	}
	return nil, StatusError(resp.Status, resp.Header, body) // half a body is better than none
}

// DoJSON is [Do] for a response that is one JSON document, such as a list of models, of no more than
// 8 MiB. Another one is an [Internal] error, and the [Upstream]'s fault.
func DoJSON(ctx context.Context, req HTTPRequest, v any) error {
	resp, err := Do(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxDocument:
		err = errors.New("it is longer than 8 MiB")
	default:
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return &Error{Kind: Internal, Fault: Upstream, Message: "upstream answered with another document than was asked for: " + err.Error(), Err: err}
	}
	return nil
}

// refuseDocument tells what an upstream said that answers with a JSON document, not with a stream:
// most often it is an error with a good status. Some send streams under that content type, so the
// first character decides.
func refuseDocument(resp *HTTPResponse) (io.Reader, error) {
	if kind, _, _ := strings.Cut(resp.Header.Get("content-type"), ";"); strings.TrimSpace(strings.ToLower(kind)) != "application/json" {
		return resp.Body, nil
	}
	head := make([]byte, 0, 512)
	for len(head) < cap(head) {
		n, err := resp.Body.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil && err != io.EOF {
			return nil, err
		}
		if text := bytes.TrimSpace(head); len(text) > 0 && text[0] != '{' && text[0] != '[' {
			break
		} else if len(text) > 0 {
			rest, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
			if e := AsError(err); e != nil && e.Kind == Cancelled {
				return nil, e
			}
			head = append(head, rest...)
			if b := parseErrorBody(head); b.isError {
				return nil, StatusError(0, resp.Header, head)
			}
			return nil, &Error{Kind: Internal, Fault: Upstream, Message: "upstream answered with a JSON document, not with a stream of events"}
		}
		if err == io.EOF {
			break
		}
	}
	return io.MultiReader(bytes.NewReader(head), resp.Body), nil
}

const (
	maxErrorBody = 64 << 10
	maxDocument  = 8 << 20
)

var (
	errNotSupported  = &Error{Kind: Invalid, Fault: Host, Message: "the provider does not support this"}
	errNotRegistered = &Error{Kind: Internal, Fault: Plugin, Message: "no provider is registered: call sdk.Register from an init function"}
	errBodyClosed    = &Error{Kind: Internal, Fault: Plugin, Message: "read after the response body was closed"}
)

// PostSSE sends a request whose answer is a stream of server-sent events and hands them to f one
// by one. The event's data is valid until f returns. An error of f ends it and is returned, except
// [ErrDone]. It returns nil, too, when the body has ended: whether the dialect's last event was there
// is for the caller to know, who returns [Unfinished] when it wasn't.
func PostSSE(ctx context.Context, req HTTPRequest, f func(Event) error) error {
	return stream(ctx, req, "text/event-stream", func(resp *HTTPResponse) error {
		body, err := refuseDocument(resp)
		if err != nil {
			return err
		}
		return ReadSSE(body, f)
	})
}

// PostLines is [PostSSE] for an answer of lines, such as JSON lines. Empty lines are left out.
func PostLines(ctx context.Context, req HTTPRequest, f func(line []byte) error) error {
	return stream(ctx, req, "application/x-ndjson, application/json", func(resp *HTTPResponse) error { return ReadLines(resp.Body, f) })
}

func stream(ctx context.Context, req HTTPRequest, accept string, read func(*HTTPResponse) error) error {
	head := Header{"Accept": accept}
	for k, v := range req.Header {
		if strings.EqualFold(k, "accept") {
			delete(head, "Accept")
		}
		head[k] = v
	}
	req.Header = head
	if req.Body != nil && head.Get("content-type") == "" {
		head["Content-Type"] = "application/json"
	}
	resp, err := Do(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(resp)
}

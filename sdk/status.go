package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// StatusError makes the error for a response that is one: from its status, its header and the
// start of its body. With status 0 it is the error that an upstream reports within a stream it
// had begun with a good status.
//
// Whether it can be retried is decided as the vendors' own clients do: x-should-retry has the
// last word, else 408, 409, 429 and 5xx can. Wait comes from retry-after-ms or retry-after, or from
// the details of a google.rpc.Status.
func StatusError(status int, header Header, body []byte) *Error {
	b := parseErrorBody(body)
	if status == 0 && b.status >= 400 && b.status < 600 {
		status = b.status
	}
	e := &Error{Status: status, Code: b.code}
	e.Kind, e.Fault = kindOf(status, b.codes)
	if e.Kind != Limited && e.Kind != Unavailable {
		if header.Get("x-should-retry") == "true" {
			e.Kind, e.Fault = Unavailable, Upstream
		}
	} else if header.Get("x-should-retry") == "false" {
		if e.Kind == Limited {
			e.Kind, e.Fault = Denied, Upstream
		} else {
			e.Kind, e.Fault = Internal, Upstream
		}
	}
	if e.Retryable() {
		if e.Wait = retryAfter(header, time.Now()); e.Wait == 0 {
			e.Wait = b.wait
		}
	}
	e.Message = "upstream reported an error"
	if status != 0 {
		e.Message = fmt.Sprintf("upstream answered %d", status)
	}
	if b.message != "" {
		e.Message += ": " + b.message
	}
	return e
}

// kindOf judges by the upstream's own codes where they are more precise than the status, or when
// there is no status.
func kindOf(status int, codes []string) (Kind, Fault) {
	for _, c := range codes {
		if k, ok := preciseCodes[c]; ok {
			return k, k.fault()
		}
	}
	switch {
	case status == 401 || status == 402 || status == 403 || status == 407:
		return Denied, Host // it is the host's key
	case status == 408 || status == 409 || status == 425:
		return Unavailable, Upstream
	case status == 429:
		return Limited, Upstream
	case status >= 500:
		return Unavailable, Upstream
	case status >= 400:
		return Invalid, Caller
	case status >= 300:
		return Invalid, Host // a redirect: the configured address is not the right one
	}
	for _, c := range codes {
		if k, ok := streamCodes[strings.ToLower(c)]; ok {
			return k, k.fault()
		}
	}
	return Unavailable, Upstream
}

var preciseCodes = map[string]Kind{
	"insufficient_quota":         Denied,
	"billing_hard_limit_reached": Denied,
	"billing_not_active":         Denied,
	"billing_error":              Denied,
	"context_length_exceeded":    Invalid,
	"string_above_max_length":    Invalid,
	"content_policy_violation":   Refused,
	"content_filter":             Refused,
	"moderation_blocked":         Refused,
	"API_KEY_INVALID":            Denied, // with status 400
}

// streamCodes are the types with which upstreams report, inside a stream, what would otherwise
// have been a status.
var streamCodes = map[string]Kind{
	"invalid_request_error":       Invalid,
	"invalid_argument":            Invalid,
	"failed_precondition":         Invalid,
	"out_of_range":                Invalid,
	"not_found":                   Invalid,
	"not_found_error":             Invalid,
	"request_too_large":           Invalid,
	"validationexception":         Invalid,
	"invalid_prompt":              Invalid,
	"authentication_error":        Denied,
	"unauthenticated":             Denied,
	"permission_error":            Denied,
	"permission_denied":           Denied,
	"rate_limit_error":            Limited,
	"rate_limit_exceeded":         Limited,
	"resource_exhausted":          Limited,
	"throttlingexception":         Limited,
	"overloaded_error":            Unavailable,
	"api_error":                   Unavailable,
	"server_error":                Unavailable,
	"internal_server_error":       Unavailable,
	"internal":                    Unavailable,
	"timeout_error":               Unavailable,
	"unavailable":                 Unavailable,
	"deadline_exceeded":           Unavailable,
	"internalserverexception":     Unavailable,
	"serviceunavailableexception": Unavailable,
	"modelstreamerrorexception":   Unavailable,
}

// errorBody is what can be found in the error documents of the common dialects.
type errorBody struct {
	message string
	code    string   // the most precise
	codes   []string // all of them
	status  int      // a number that looks like one
	isError bool     // the document says that it is one
	wait    time.Duration
}

const maxErrorText = 1024

func parseErrorBody(body []byte) (b errorBody) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return b
	}
	if body[0] == '[' { // some send an array of one
		var list []json.RawMessage
		if json.Unmarshal(body, &list) == nil && len(list) > 0 {
			body = list[0]
		}
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(body, &doc) != nil {
		if body[0] != '<' { // a page of HTML helps nobody
			b.message = truncate(strings.ToValidUTF8(string(body[:min(len(body), maxErrorText)]), "\uFFFD"), maxErrorText)
		}
		return b
	}
	inner := doc
	b.isError = text(doc["type"]) == "error"
	if raw, ok := doc["error"]; ok && string(raw) != "null" {
		b.isError = true
		var text string
		if json.Unmarshal(raw, &text) == nil {
			b.message, inner = text, nil
		} else if m := map[string]json.RawMessage(nil); json.Unmarshal(raw, &m) == nil && m != nil {
			inner = m
		}
	}
	for _, name := range []string{"message", "detail"} {
		if b.message == "" {
			b.message = text(inner[name])
		}
		if b.message == "" {
			b.message = text(doc[name])
		}
	}
	b.message = truncate(b.message, maxErrorText)
	b.readDetails(inner["details"])
	for _, name := range []string{"code", "status", "type"} {
		raw := inner[name]
		if n, err := strconv.Atoi(string(raw)); err == nil {
			b.status = n
		} else if s := text(raw); s != "" && s != "error" {
			b.codes = append(b.codes, s)
		}
	}
	if len(b.codes) > 0 {
		b.code = b.codes[0]
	}
	return b
}

// readDetails takes what Google's services add to an error, an ErrorInfo with a reason and a RetryInfo
// with a delay such as "34.5s", see
// https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto.
func (b *errorBody) readDetails(raw json.RawMessage) {
	var details []map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &details) != nil {
		return
	}
	for _, d := range details {
		if reason := text(d["reason"]); reason != "" {
			b.codes = append(b.codes, reason)
		}
		if delay, err := time.ParseDuration(text(d["retryDelay"])); err == nil && delay > 0 {
			b.wait = min(delay, longestWait)
		}
	}
}

func text(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// longestWait bounds what an upstream may ask for.
const longestWait = 24 * time.Hour

// retryAfter is how long to wait, 0 when the header doesn't say.
func retryAfter(h Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(strings.TrimSpace(h.Get("retry-after-ms")), 64); err == nil {
		return span(ms, time.Millisecond)
	}
	value := strings.TrimSpace(h.Get("retry-after"))
	if s, err := strconv.ParseFloat(value, 64); err == nil {
		return span(s, time.Second)
	}
	at, ok := httpDate(value)
	if !ok {
		return 0
	}
	if sent, ok := httpDate(h.Get("date")); ok {
		now = sent // the upstream's clock, not ours
	}
	return min(max(at.Sub(now), 0), longestWait)
}

func span(n float64, unit time.Duration) time.Duration {
	if math.IsNaN(n) || n <= 0 {
		return 0
	}
	if n > float64(longestWait/unit) {
		return longestWait
	}
	return time.Duration(math.Ceil(n * float64(unit)))
}

// httpDate reads the three formats of RFC 9110, section 5.6.7.
func httpDate(s string) (time.Time, bool) {
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 GMT", time.RFC850, time.ANSIC} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

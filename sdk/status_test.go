package sdk

import (
	"strings"
	"testing"
	"time"
)

func TestStatusError(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		header Header
		body   string
		want   Error
	}{
		{"bad request", 400, nil, `{"error":{"message":"no such field","type":"invalid_request_error","param":"x","code":null}}`,
			Error{Kind: Invalid, Fault: Caller, Message: "upstream answered 400: no such field", Code: "invalid_request_error"}},
		{"context too long", 400, nil, `{"error":{"message":"too long","code":"context_length_exceeded"}}`, Error{Kind: Invalid, Fault: Caller, Code: "context_length_exceeded"}},
		{"content filter", 400, nil, `{"error":{"message":"no","code":"content_policy_violation"}}`, Error{Kind: Refused, Fault: Caller}},
		{"bad key", 401, nil, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`,
			Error{Kind: Denied, Fault: Host, Message: "upstream answered 401: invalid x-api-key", Code: "authentication_error"}},
		{"billing", 402, nil, ``, Error{Kind: Denied, Fault: Host, Message: "upstream answered 402"}},
		{"forbidden", 403, nil, `<html>no</html>`, Error{Kind: Denied, Fault: Host, Message: "upstream answered 403"}},
		{"no such model", 404, nil, `{"error":"model \"x\" not found"}`, Error{Kind: Invalid, Fault: Caller, Message: `upstream answered 404: model "x" not found`}},
		{"timeout", 408, nil, ``, Error{Kind: Unavailable, Fault: Upstream}},
		{"conflict", 409, nil, ``, Error{Kind: Unavailable, Fault: Upstream}},
		{"too large", 413, nil, `{"message":"too large"}`, Error{Kind: Invalid, Fault: Caller, Message: "upstream answered 413: too large"}},
		{"slow down", 429, Header{"retry-after": "2"}, `{"error":{"message":"slow down"}}`, Error{Kind: Limited, Fault: Upstream, Wait: 2 * time.Second}},
		{"slow down, precisely", 429, Header{"retry-after-ms": "1500.5", "retry-after": "9"}, ``, Error{Kind: Limited, Fault: Upstream, Wait: 1500500 * time.Microsecond}},
		{"slow down, some day", 429, nil, ``, Error{Kind: Limited, Fault: Upstream}},
		{"no credit", 429, Header{"retry-after": "2"}, `{"error":{"code":"insufficient_quota","type":"insufficient_quota"}}`, Error{Kind: Denied, Fault: Host, Code: "insufficient_quota"}},
		{"don't retry 429", 429, Header{"x-should-retry": "false", "retry-after": "2"}, ``, Error{Kind: Denied, Fault: Upstream}},
		{"server error", 500, nil, `{"type":"error","error":{"type":"api_error","message":"oh"}}`, Error{Kind: Unavailable, Fault: Upstream, Code: "api_error"}},
		{"don't retry 500", 500, Header{"X-Should-Retry": "false"}, ``, Error{Kind: Internal, Fault: Upstream}},
		{"do retry 400", 400, Header{"x-should-retry": "true", "retry-after": "1"}, ``, Error{Kind: Unavailable, Fault: Upstream, Wait: time.Second}},
		{"overloaded", 529, Header{"retry-after": "1"}, ``, Error{Kind: Unavailable, Fault: Upstream, Wait: time.Second}},
		{"redirect", 302, Header{"location": "https://elsewhere"}, ``, Error{Kind: Invalid, Fault: Host}},
		{"plain text", 503, nil, "come back later", Error{Kind: Unavailable, Fault: Upstream, Message: "upstream answered 503: come back later"}},
		{"gemini", 400, nil, `[{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT"}}]`,
			Error{Kind: Invalid, Fault: Caller, Message: "upstream answered 400: API key not valid", Code: "INVALID_ARGUMENT"}},
		{"gemini, its key", 400, nil, `{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"},{"@type":"type.googleapis.com/google.rpc.LocalizedMessage","message":"no"}]}}`,
			Error{Kind: Denied, Fault: Host, Message: "upstream answered 400: API key not valid", Code: "API_KEY_INVALID"}},
		{"gemini, slow down", 429, nil, `{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"x"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}`,
			Error{Kind: Limited, Fault: Upstream, Code: "RESOURCE_EXHAUSTED", Wait: 34500 * time.Millisecond}},
		{"gemini, slow down, and a header", 429, Header{"retry-after": "2"}, `{"error":{"code":429,"details":[{"retryDelay":"34s"}]}}`, Error{Kind: Limited, Fault: Upstream, Wait: 2 * time.Second}},
		{"gemini, for ever", 429, nil, `{"error":{"code":429,"details":[{"retryDelay":"9999999s"}]}}`, Error{Kind: Limited, Fault: Upstream, Wait: 24 * time.Hour}},
		{"details of no use", 429, nil, `{"error":{"code":429,"details":[{"retryDelay":"-1s","reason":7},{"retryDelay":{}}]}}`, Error{Kind: Limited, Fault: Upstream}},
		{"details that are none", 429, nil, `{"error":{"code":429,"details":"x"}}`, Error{Kind: Limited, Fault: Upstream}},
		{"details", 422, nil, `{"detail":"x is missing"}`, Error{Kind: Invalid, Fault: Caller, Message: "upstream answered 422: x is missing"}},

		// Within a stream that began with 200.
		{"overloaded in band", 0, nil, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`,
			Error{Kind: Unavailable, Fault: Upstream, Message: "upstream reported an error: Overloaded", Code: "overloaded_error"}},
		{"rate limit in band", 0, nil, `{"error":{"type":"rate_limit_error","message":"m"}}`, Error{Kind: Limited, Fault: Upstream}},
		{"invalid in band", 0, nil, `{"error":{"type":"invalid_request_error","message":"m"}}`, Error{Kind: Invalid, Fault: Caller}},
		{"key in band", 0, nil, `{"error":{"type":"authentication_error"}}`, Error{Kind: Denied, Fault: Host}},
		{"server error in band", 0, nil, `{"error":{"type":"server_error","message":"m","code":"server_error"}}`, Error{Kind: Unavailable, Fault: Upstream}},
		{"gemini in band", 0, nil, `{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}`,
			Error{Kind: Unavailable, Fault: Upstream, Message: "upstream answered 503: m", Code: "UNAVAILABLE", Status: 503}},
		{"ollama in band", 0, nil, `{"error":"an unknown error was encountered while running the model"}`, Error{Kind: Unavailable, Fault: Upstream}},
		{"novel in band", 0, nil, `{"error":{"type":"novel"}}`, Error{Kind: Unavailable, Fault: Upstream, Code: "novel"}},
		{"responses in band", 0, nil, `{"type":"error","code":"rate_limit_exceeded","message":"m","param":null}`, Error{Kind: Limited, Fault: Upstream, Code: "rate_limit_exceeded"}},
		{"garbage", 0, nil, `nonsense`, Error{Kind: Unavailable, Fault: Upstream, Message: "upstream reported an error: nonsense"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := StatusError(c.status, c.header, []byte(c.body))
			if got.Kind != c.want.Kind || got.Fault != c.want.Fault || got.Wait != c.want.Wait {
				t.Errorf("error is %s of %s, wait %v; want %s of %s, wait %v", got.Kind, got.Fault, got.Wait, c.want.Kind, c.want.Fault, c.want.Wait)
			}
			if c.want.Message != "" && got.Message != c.want.Message || c.want.Code != "" && got.Code != c.want.Code {
				t.Errorf("error is %q, code %q; want %q, code %q", got.Message, got.Code, c.want.Message, c.want.Code)
			}
			if want := max(c.status, c.want.Status); got.Status != want {
				t.Errorf("status is %d, want %d", got.Status, want)
			}
		})
	}
}

func TestErrorTextIsBounded(t *testing.T) {
	for _, body := range []string{strings.Repeat("ä", 1<<20), `{"error":{"message":"` + strings.Repeat("ä", 1<<20) + `"}}`} {
		if e := StatusError(500, nil, []byte(body)); len(e.Message) > 2*maxErrorText {
			t.Errorf("the message has %d bytes", len(e.Message))
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "nan": 0, "soon": 0, "3": 3 * time.Second, "0.25": 250 * time.Millisecond, " 3 ": 3 * time.Second,
		"1e300": longestWait, "+Inf": longestWait, "90000": longestWait,
		"Sun, 01 Mar 2026 12:01:30 GMT":   90 * time.Second,
		"Sunday, 01-Mar-26 12:00:01 GMT":  time.Second,
		"Sun Mar  1 12:00:02 2026":        2 * time.Second,
		"Sun, 01 Mar 2026 11:59:00 GMT":   0,
		"Wed, 01 Mar 2056 11:59:00 GMT":   longestWait,
		"Sun, 31 Feb 2026 11:59:00 GMT":   0,
		"Sun, 01 Mar 2026 12:01:30 +0100": 0,
	} {
		if got := retryAfter(Header{"Retry-After": value}, now); got != want {
			t.Errorf("retry-after: %s is %v, want %v", value, got, want)
		}
	}
	upstreamsClock := Header{"retry-after": "Sun, 01 Mar 2026 13:00:10 GMT", "date": "Sun, 01 Mar 2026 13:00:00 GMT"}
	if got := retryAfter(upstreamsClock, now); got != 10*time.Second {
		t.Errorf("by the upstream's clock it is %v, want 10s", got)
	}
}

func FuzzStatusError(f *testing.F) {
	f.Add(429, "1.5", "Sun, 01 Mar 2026 12:01:30 GMT", []byte(`{"error":{"message":"m","code":"c"}}`))
	f.Add(0, "", "", []byte(`[{"error":{"code":503}}]`))
	f.Add(500, "x", "-1", []byte(`{"error":["a"],"message":7}`))
	f.Fuzz(func(t *testing.T, status int, ms, after string, body []byte) {
		e := StatusError(status, Header{"retry-after-ms": ms, "retry-after": after}, body)
		if e.Kind == "" || e.Fault == "" || e.Message == "" || e.Wait < 0 || e.Wait > longestWait {
			t.Errorf("%#v", e)
		}
		if _, err := e.MarshalBinary(); err != nil {
			t.Error(err)
		}
	})
}

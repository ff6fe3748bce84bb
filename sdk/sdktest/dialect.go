package sdktest

import (
	"net/http"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

// Dialect is what the author of a provider that answers from an HTTP upstream writes: how the
// upstream says things. The kit has the rest: an upstream that listens, the table of what it says
// and of all that goes wrong with it (answers in pieces, cut, stalled, endless; bad statuses; resets),
// and what a provider must make of each. See [RunHTTP].
type Dialect struct {
	// Model is asked for. Required.
	Model string
	// Settings point the provider at an upstream whose URL, without a path, is base. Required.
	Settings func(base string) map[string]any
	// Env are the variables that hold the provider's secrets, with values for the test.
	Env map[string]string

	// Say writes an answer as the upstream sends it: one piece for each chunk, and one that ends the
	// answer, "" where only the end of the body does. A chunk that the dialect has no message of its own
	// for has the piece "" and is in the next one's. nil says that the dialect has no words for such an
	// answer: what needs it is skipped. Required.
	//
	// A further Text must be said alike wherever it stands in an answer, as it is repeated for ever
	// where an endless one is called for. The first chunk is never one of those repeated.
	Say func(answer []sdk.Chunk) (pieces []string)
	// Header is that of an answer, such as its content type.
	Header map[string]string
	// Faults are further answers of the upstream that are errors: its own codes, and errors within an
	// answer. Those that HTTP has for everybody are in the table already.
	Faults []Fault
	// Never are kinds of errors that this dialect has no way to report. The table wants each of the
	// others to come up: Invalid, Denied, Limited, Unavailable, Truncated, Refused.
	Never []sdk.Kind
	// Cases are further answers; what they are asked for is the kit's.
	Cases []Exchange

	// Asked looks at a request that the upstream is sent and says what is wrong with it; nil leaves it
	// out. It may be called concurrently.
	Asked func(r *http.Request, body []byte) error
	// Other answers requests that are no question: a list of models, say. nil answers 404.
	Other http.Handler
}

// Reply is an answer of the upstream.
type Reply struct {
	Status int               // 0 is 200
	Header map[string]string // besides the dialect's, and over it
	Body   string
}

// Fault is an answer of the upstream that the provider must report as an error.
type Fault struct {
	Name  string
	Reply Reply
	// After are chunks the provider emits before it fails.
	After []sdk.Chunk
	// Want is the error. Zero fields but Kind are not compared.
	Want sdk.Error
}

// Exchange is an answer of the upstream and what the provider makes of it: the chunks, compared as
// [Case].Answer is.
type Exchange struct {
	Name   string
	Reply  Reply
	Answer []sdk.Chunk
}

// RunHTTP runs the table of a dialect against p, with an upstream of the kit's.
func RunHTTP(t *testing.T, p sdk.Provider, d Dialect) {
	t.Helper()
	for name, value := range d.Env {
		t.Setenv(name, value) // outside a host secrets are environment variables
	}
	u := d.Listen()
	defer u.Close()
	o := u.Options()
	before := goroutines()
	o.KeepsGoroutines = true // those of idle connections end with the upstream
	Run(t, p, o)
	u.Close()
	if !t.Failed() {
		goroutinesEnd(t, before)
	}
}

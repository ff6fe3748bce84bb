package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// keysPause is how often tokens may have the keys fetched that they are signed with.
const keysPause = 10 * time.Second

// errNoKeys says that a token's key is unknown and could not be asked for: nothing is
// known of the token.
var errNoKeys = errors.New("signing keys can't be asked for now")

// signingKeys are those of a JWKS (RFC 7517). Safe for concurrent use.
type signingKeys struct {
	set keyfunc.Keyfunc
	// fetched counts the answers that came, failed those that were none.
	fetched, failed atomic.Int64
}

// fetchKeys fetches the keys now, and refreshes them until ctx ends.
func fetchKeys(ctx context.Context, url string, log *slog.Logger) (*signingKeys, error) {
	k := &signingKeys{}
	// A token with a key id nobody has seen asks for a refresh, at most once in
	// keysPause: key rotation without a wait, and no amplifier for strangers.
	// RateLimitWaitMax bounds the wait for one's turn and the fetch together; who
	// would wait longer is refused at once.
	set, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{url}, keyfunc.Override{
		Client:            &http.Client{Transport: k},
		HTTPTimeout:       10 * time.Second,
		RefreshInterval:   15 * time.Minute,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(keysPause), 1),
		RateLimitWaitMax:  authTimeout / 2,
		RefreshErrorHandlerFunc: func(url string) func(context.Context, error) {
			return func(_ context.Context, err error) {
				k.failed.Add(1)
				log.Error("signing keys could not be fetched", "url", url, "error", err)
			}
		},
	})
	k.set = set
	return k, err
}

// RoundTrip counts the fetches.
func (k *signingKeys) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		k.fetched.Add(1)
	}
	return res, err
}

// of finds the key of a token. A token that names none has the keys asked for only
// if there are none at all.
func (k *signingKeys) of(ctx context.Context) jwt.Keyfunc {
	return func(token *jwt.Token) (any, error) {
		id, named := token.Header["kid"].(string)
		missing := named
		if !named {
			all, err := k.set.VerificationKeySet(ctx)
			missing = err == nil && len(all.Keys) == 0
		}
		if missing {
			fetched, failed := k.fetched.Load(), k.failed.Load()
			_, err := k.set.Storage().KeyRead(ctx, id)
			switch {
			case err == nil:
			case k.fetched.Load() == fetched || k.failed.Load() != failed:
				return nil, errors.Join(errNoKeys, err)
			case named:
				return nil, err
			}
		}
		return k.set.KeyfuncCtx(ctx)(token)
	}
}

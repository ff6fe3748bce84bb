// Package config holds every setting of Sluice in one struct and loads it.
//
// Four layers, each over the one before: the defaults, a YAML file, the
// environment (SLUICE_GATEWAY__ADDR is gateway.addr) and flags
// (--gateway.addr). A key nobody knows or a value that can't be used stops the
// start; the error names the key, the value, where it was said and what would
// do. A loaded Config is complete and valid: whoever receives it need not
// check it again.
package config

import (
	"time"
)

// Config is everything an operator can set. The zero value is not usable;
// start from Default or Load. It is plain data: copy it freely, and don't write
// to one that others read.
type Config struct {
	Log     Log     `koanf:"log"`
	Redis   Redis   `koanf:"redis"`
	Gateway Gateway `koanf:"gateway"`
	Host    Host    `koanf:"host"`
	Plugins Plugins `koanf:"plugins"`
}

// Log says how much is logged, and in what form.
type Log struct {
	Level  string `koanf:"level" help:"debug, info, warn or error"`
	Format string `koanf:"format" help:"text or json"`
}

// Redis says which Redis (or Valkey) carries the jobs.
type Redis struct {
	URL      URL      `koanf:"url" help:"redis:// rediss:// unix:// redis-sentinel:// redis-cluster://; empty runs an embedded one"`
	Username string   `koanf:"username" help:"ACL user, when the URL names none"`
	Password Secret   `koanf:"password" help:"password, when the URL holds none"`
	PoolSize int      `koanf:"pool_size" help:"connections per node; 0 is 10 per CPU; at least 10"`
	TLS      TLS      `koanf:"tls"`
	Embedded string   `koanf:"embedded" help:"what runs without a url: auto, server (a child valkey-server or redis-server) or memory"`
	DataDir  string   `koanf:"data_dir" help:"where the embedded server keeps its data"`
	Sentinel Sentinel `koanf:"sentinel"`
}

// TLS refines the encrypted schemes of redis.url (rediss://, …).
type TLS struct {
	CAFile     string `koanf:"ca_file" help:"PEM file of the authorities to trust; empty trusts the system's"`
	CertFile   string `koanf:"cert_file" help:"PEM file of our own certificate"`
	KeyFile    string `koanf:"key_file" help:"PEM file of its key"`
	ServerName string `koanf:"server_name" help:"name expected in the server's certificate; empty is the host of the url"`
	Insecure   bool   `koanf:"insecure" help:"accept any certificate; for trying things out only"`
}

// Sentinel holds the sentinels' own credentials, which differ from the servers'.
type Sentinel struct {
	Username string `koanf:"username" help:"ACL user at the sentinels"`
	Password Secret `koanf:"password" help:"password at the sentinels"`
}

// Gateway is the Socket.IO side.
type Gateway struct {
	Addr         string        `koanf:"addr" help:"host:port to listen on; port 0 picks a free one"`
	Path         string        `koanf:"path" help:"path of the Socket.IO endpoint"`
	Origins      []string      `koanf:"origins" help:"origins of pages that may connect, such as https://app.example.com; empty is the gateway's own, * is any"`
	Page         bool          `koanf:"page" help:"serve the page at /"`
	DefaultModel string        `koanf:"default_model" help:"model of a job that names none"`
	Legacy       bool          `koanf:"legacy" help:"forward what older workers publish without seq"`
	Grace        time.Duration `koanf:"grace" help:"time that open connections get to end at shutdown"`
	Proxies      []string      `koanf:"proxies" help:"addresses or networks of reverse proxies whose X-Forwarded-For is believed"`
	Limits       GatewayLimits `koanf:"limits"`
	Auth         Auth          `koanf:"auth"`
}

// GatewayLimits bounds what one client can make the gateway hold.
type GatewayLimits struct {
	Query       Size `koanf:"query" help:"longest query of a job"`
	Request     Size `koanf:"request" help:"largest job as a whole: messages, params and context"`
	Watched     int  `koanf:"watched" help:"jobs one socket can watch at the same time"`
	Connections int  `koanf:"connections" help:"sockets at the same time; 0 is no limit"`
	Pending     Size `koanf:"pending" help:"frames waiting for one slow client; over it the client is cut off, and resumes"`

	ConnectionsPerAddress int `koanf:"connections_per_address" help:"sockets of one address at one gateway, and four times as many connections that are none; loopback not counted; 0 is no limit"`
	ConnectionsPerUser    int `koanf:"connections_per_user" help:"sockets of one user over all gateways, where users sign in; 0 is no limit"`
	StartsPerMinute       int `koanf:"starts_per_minute" help:"jobs one user can start in a minute; 0 is no limit"`
	JobsPerUser           int `koanf:"jobs_per_user" help:"jobs of one user that have not ended; 0 is no limit"`
}

// Auth says who may connect.
type Auth struct {
	Mode           string `koanf:"mode" help:"none (everybody is the user anonymous), keys (API keys), hs256 or jwt (RS256, ES256, EdDSA by a JWKS)"`
	Secret         Secret `koanf:"secret" help:"shared key of hs256, at least 32 bytes"`
	JWKSURL        string `koanf:"jwks_url" help:"where jwt finds its public keys"`
	KeysFile       string `koanf:"keys_file" help:"file of API keys, each by its SHA-256; instead of tokens with keys, else beside them"`
	Issuer         string `koanf:"issuer" help:"required iss claim; empty accepts any"`
	Audience       string `koanf:"audience" help:"required aud claim; empty accepts any"`
	InsecurePublic bool   `koanf:"insecure_public" help:"listen beyond loopback with mode none"`
}

// Host is the side that takes jobs and runs plugins.
type Host struct {
	Addr            string        `koanf:"addr" help:"host:port of /healthz, /readyz and /metrics of the host; empty is off"`
	ID              string        `koanf:"id" help:"name of this host, unique among those on one Redis; empty makes one up"`
	Concurrency     int           `koanf:"concurrency" help:"jobs running at the same time"`
	Coalesce        time.Duration `koanf:"coalesce" help:"window in which chunks are merged into one frame; the first is never held back"`
	TTL             time.Duration `koanf:"ttl" help:"how long a job is kept after its last frame"`
	Timeout         time.Duration `koanf:"timeout" help:"longest run of one attempt"`
	Grace           time.Duration `koanf:"grace" help:"time that running jobs get to end at shutdown, before they are handed over"`
	MaxAttempts     int           `koanf:"max_attempts" help:"executions of one job before it fails for good"`
	Backoff         Backoff       `koanf:"backoff"`
	Progress        time.Duration `koanf:"progress" help:"how often a long answer reports its progress"`
	Buffer          HostBuffer    `koanf:"buffer"`
	GeneralChannels bool          `koanf:"general_channels" help:"publish every frame on model:chunk, model:complete and job:progress too"`
}

// HostBuffer bounds the chunks that wait for Redis. When it is full the plugin
// is held back.
type HostBuffer struct {
	Job   Size `koanf:"job" help:"chunks of one job waiting for Redis; full, the plugin is held back"`
	Total Size `koanf:"total" help:"the same for all jobs together"`
}

// Backoff is the wait between two attempts of a job: it doubles from Min to Max.
type Backoff struct {
	Min time.Duration `koanf:"min" help:"wait before the second attempt"`
	Max time.Duration `koanf:"max" help:"longest wait between attempts"`
}

// Plugins says where the plugins are and what each may do here.
type Plugins struct {
	Dirs     []string          `koanf:"dirs" help:"folders of installed plugins; empty is the folder plugins beside the binary"`
	CacheDir string            `koanf:"cache_dir" help:"where compiled and verified artifacts are kept"`
	Config   map[string]Plugin `koanf:"config"`
}

// Plugin is the operator's word about one plugin, under plugins.config.<name>.
// It narrows what the plugin's manifest asks for; it can't widen it. The zero
// value is an enabled plugin with nothing set.
type Plugin struct {
	// Disabled plugins are not started, and their models not served.
	Disabled bool `koanf:"disabled" help:"don't start it"`
	// Settings go to the plugin, which checks them against its manifest.
	Settings map[string]any `koanf:"settings" help:"what the plugin itself is told, as its manifest describes"`
	// Secrets maps the names of the manifest to values; the host puts them into
	// outgoing headers.
	Secrets map[string]Secret `koanf:"secrets" help:"secrets by the manifest's names; env:NAME, file:PATH and cmd:PROGRAM read one from elsewhere"`
	// Egress narrows the manifest's list of origins; empty leaves it as it is.
	Egress []string `koanf:"egress" help:"origins it may reach, out of those its manifest names; empty is all of them"`
	// Models names further models, where the manifest says that there are others.
	Models []string `koanf:"models" help:"further models it serves, by name or glob, if its manifest lets others be named"`
	// AllowPrivate names hosts or host:port pairs that may be private or loopback addresses.
	AllowPrivate []string `koanf:"allow_private" help:"hosts (or host:port) it may reach although their address is private or loopback"`
	// RequireBox holds guarantees without which a native plugin is not started.
	RequireBox []string     `koanf:"require_box" help:"what the box of a native plugin must guarantee for it to be started: network, files, processes, sockets, memory, tasks"`
	Limits     PluginLimits `koanf:"limits"`
}

// PluginLimits tightens the manifest's limits; zero leaves the manifest's.
type PluginLimits struct {
	Memory       Size          `koanf:"memory" help:"memory of one guest instance, or of the plugin process"`
	Concurrency  int           `koanf:"concurrency" help:"generations at the same time"`
	CPU          time.Duration `koanf:"cpu" help:"processor time of one generation in the sandbox"`
	FirstToken   time.Duration `koanf:"first_token" help:"longest wait for the first chunk"`
	Idle         time.Duration `koanf:"idle" help:"longest silence between chunks"`
	Total        time.Duration `koanf:"total" help:"longest generation"`
	Output       Size          `koanf:"output" help:"longest answer"`
	OpenRequests int           `koanf:"open_requests" help:"HTTP requests of one generation in the sandbox at the same time"`
	RequestBody  Size          `koanf:"request_body" help:"longest HTTP request"`
	ResponseBody Size          `koanf:"response_body" help:"longest HTTP response"`
}

// Default is the configuration of a fresh install: everything on loopback, on
// a Redis of its own.
func Default() Config {
	return Config{
		Log:   Log{Level: "info", Format: "text"},
		Redis: Redis{Embedded: "auto", DataDir: "data/redis"},
		Gateway: Gateway{
			Addr:         "127.0.0.1:3210",
			Path:         "/socket.io/",
			Page:         true,
			DefaultModel: "echo",
			Legacy:       true,
			Grace:        5 * time.Second,
			Limits: GatewayLimits{
				Query:   32 * KiB,
				Request: 4 * MiB,
				Watched: 256,
				Pending: 2 * MiB,

				ConnectionsPerAddress: 1000,
				ConnectionsPerUser:    100,
			},
			Auth: Auth{Mode: "none"},
		},
		Host: Host{
			Concurrency:     64,
			Coalesce:        25 * time.Millisecond,
			TTL:             24 * time.Hour,
			Timeout:         2 * time.Hour,
			Grace:           30 * time.Second,
			MaxAttempts:     5,
			Backoff:         Backoff{Min: 500 * time.Millisecond, Max: 30 * time.Second},
			Progress:        5 * time.Second,
			Buffer:          HostBuffer{Job: MiB, Total: 256 * MiB},
			GeneralChannels: true,
		},
		Plugins: Plugins{CacheDir: "data/cache"},
	}
}

// Package provider is the wire between a host and a native provider plugin: the messages and
// the gRPC service of provider.proto, and what both ends must agree on before the first call.
package provider

//go:generate sh generate.sh

// ProtocolVersion is the version of the service that this build speaks. A host offers the
// versions it knows in the environment, a plugin answers with the one it picked.
const ProtocolVersion = 1

// The cookie tells a plugin that a host started it; it is no secret.
const (
	CookieKey   = "SLUICE_PLUGIN"
	CookieValue = "sluice.provider"
)

// PluginName is the name under which the service is dispensed.
const PluginName = "provider"

// Environment variables that a host sets for a plugin.
const (
	// EnvEgress is the path of the unix socket of the host's egress gate: HTTP/1.1 with
	// absolute request targets.
	EnvEgress = "SLUICE_EGRESS"
	// EnvLifeline, when "stdin", asks the plugin to exit as soon as its standard input ends.
	EnvLifeline = "SLUICE_LIFELINE"
)

// HeaderError is the response header in which the egress gate reports that it did not send a
// request, or got no answer: an Error message, protobuf, in standard base64.
const HeaderError = "Sluice-Error"

// Command guest is package steady as a plugin.
package main

import (
	"github.com/sluicehq/sluice/bench/plugins/steady"
	"github.com/sluicehq/sluice/sdk"
)

func init() { sdk.Register(steady.Provider) }

func main() { sdk.Main() }

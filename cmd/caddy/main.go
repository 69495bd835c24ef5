// Command caddy is Caddy with poll_sse.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pollsse/caddy-poll-sse"
)

func main() { caddycmd.Main() }

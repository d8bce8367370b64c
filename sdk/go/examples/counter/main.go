// counter: counts its messages.
package main

import (
	"fmt"
	"rota"
)

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	count := ctx.State.IntOr(0) + 1
	ctx.State = rota.Of(count)
	ctx.Reply(fmt.Sprint(count))
}

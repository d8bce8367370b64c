// The agent NAME: counts its messages, and replies how many there were.
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
	ctx.Log(fmt.Sprintf("message %d", count))
	ctx.Reply(fmt.Sprintf("%s: %d", ctx.Message.Text(), count))
}

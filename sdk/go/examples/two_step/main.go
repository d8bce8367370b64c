// two_step: asks one agent, asks another with its answer, and keeps and replies both.
package main

import (
	"fmt"
	"rota"
)

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message, step := ctx.Message, ctx.State.Get("step").IntOr(0)
	switch {
	case message.Kind == "failure":
		failure := message.Value()
		ctx.Fail(fmt.Sprintf("step_%d", step), failure.At(0).Text()+": "+failure.At(1).Text())
	case message.Kind != "reply":
		ctx.State = rota.Map("step", 1)
		ctx.Ask("echo/two_step", message.Payload)
		ctx.Reply("asked")
	case step == 1:
		ctx.State = rota.Map("step", 2, "first", message.Text())
		ctx.Ask("counter/two_step", message.Payload)
	default:
		ctx.State = rota.Map("step", 3, "first", ctx.State.Get("first"), "second", message.Text())
		ctx.Reply(ctx.State)
	}
}

// two_step: asks one agent, asks another with its answer, and keeps both and answers with them.
package main

import (
	"fmt"
	"rota"
)

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message, step := ctx.Message, ctx.State.Get("step").IntOr(0)
	turn := uint64(ctx.State.Get("turn").IntOr(0))
	switch {
	case message.Kind == "failure":
		failure := message.Value()
		ctx.SettleFailure(turn, fmt.Sprintf("step_%d", step), failure.At(0).Text()+": "+failure.At(1).Text())
	case message.Kind != "reply":
		ctx.State = rota.Map("step", 1, "turn", ctx.Postpone())
		ctx.Ask("echo/two_step", message.Payload)
	case step == 1:
		ctx.State = rota.Map("step", 2, "turn", turn, "first", message.Text())
		ctx.Ask("counter/two_step", message.Payload)
	default:
		ctx.State = rota.Map("step", 3, "first", ctx.State.Get("first"), "second", message.Text())
		ctx.Settle(turn, ctx.State)
	}
}

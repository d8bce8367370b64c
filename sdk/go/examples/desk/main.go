// desk: answers later: asks another agent and settles, keeps a task for a later message, or hands it on.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message, waiting := ctx.Message, uint64(ctx.State.IntOr(0))
	switch text := string(message.Payload); {
	case message.Kind == "reply": // asked in the turn that was postponed
		ctx.Settle(message.ReplyTo.AskedIn, message.Payload, message.AllTensors())
	case message.Kind == "failure":
		failure := message.Value()
		ctx.SettleFailure(message.ReplyTo.AskedIn, failure.At(0).Text(), failure.At(1).Text())
	case text == "wait":
		ctx.State = rota.Of(ctx.Postpone())
	case text == "answer":
		ctx.Settle(waiting, rota.Map("waited", waiting))
		ctx.State = rota.Value{}
		ctx.Reply("answered")
	case text == "refuse":
		ctx.SettleFailure(waiting, "refused", "the desk is closed")
		ctx.State = rota.Value{}
	case text == "pass":
		ctx.HandOn("echo/y", rota.List(waiting), rota.Turn(waiting), rota.Priority(3), rota.DeadlineMs(60_000))
		ctx.State = rota.Value{}
	case text == "transfer":
		ctx.HandOn("echo/x", message.Payload, message.AllTensors())
	default:
		ctx.Ask("echo/x", message.Payload, message.AllTensors(), rota.DeadlineMs(30_000))
		ctx.Postpone()
	}
}

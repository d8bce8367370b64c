// verbs: what the other examples leave out: priority, timer, log, tensors, any value as state.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message := ctx.Message
	sender := message.Sender
	if sender == "" {
		sender = "outside"
	}
	ctx.Log(message.Kind + " from " + sender)
	if message.Kind != "tell" && message.Kind != "ask" {
		ctx.Reply(message.Payload)
		return
	}
	before, value := ctx.State, message.Value()
	ctx.State = value
	ctx.Emit("log/main", value, rota.Priority(-3), message.AllTensors())
	asked := ctx.Ask("echo/x", rota.List(message.Turn, message.NowMs, message.Address), rota.Priority(7))
	ctx.Timer(250, "again")
	ctx.Reply(rota.Map("asked", asked, "entropy", message.Entropy, "state", before))
}

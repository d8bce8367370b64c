// ask_model: asks a language model, and answers with its text when that comes.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message := ctx.Message
	switch message.Kind {
	case "reply":
		ctx.Settle(message.ReplyTo.AskedIn, message.Value().Get("generate").Get("text"))
	case "failure":
		failure := message.Value()
		ctx.SettleFailure(message.ReplyTo.AskedIn, failure.At(0).Text(), failure.At(1).Text())
	default:
		messages := rota.List(rota.Map("role", "user", "content", message.Text()))
		ctx.Ask("model:smollm2", rota.Map("generate", rota.Map("max_tokens", 64, "messages", messages)))
		ctx.Postpone()
	}
}

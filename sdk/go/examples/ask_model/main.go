// ask_model: asks a language model, and replies the text of its answer when that comes.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	message := ctx.Message
	switch message.Kind {
	case "reply":
		ctx.Reply(message.Value().Get("generate").Get("text"))
	case "failure":
		failure := message.Value()
		ctx.Reply(failure.At(0).Text() + ": " + failure.At(1).Text())
	default:
		messages := rota.List(rota.Map("role", "user", "content", message.Text()))
		ctx.Ask("model:smollm2", rota.Map("generate", rota.Map("max_tokens", 64, "messages", messages)))
		ctx.Reply("asked")
	}
}

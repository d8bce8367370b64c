// echo: the smallest agent. It replies the payload and the tensors as they came.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func agent(ctx *rota.Context) {
	ctx.Reply(ctx.Message.Payload, ctx.Message.AllTensors())
}

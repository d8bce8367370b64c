// failing: fails as its payload says, "fail", "crash", "deep" or "spin"; else it replies the payload.
package main

import "rota"

func init() { rota.Handle(agent) }
func main() {}

func deep(depth int) int { return deep(depth+1) + depth }

func agent(ctx *rota.Context) {
	what := ctx.Message.Text()
	switch what {
	case "fail", "crash", "deep", "spin":
		ctx.Log("before it")
	}
	switch what {
	case "fail":
		ctx.Fail("asked_to_fail", "the payload said so")
	case "crash":
		panic("crashed")
	case "deep":
		ctx.Reply(deep(0))
	case "spin":
		for {
		}
	default:
		ctx.Reply(what)
	}
}

//! two_step: asks one agent, asks another with its answer, and keeps both and answers with them.
use rota::{map, Context, Kind};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let step = ctx.state["step"].int_or(0);
    let turn = ctx.state["turn"].int_or(0) as u64;
    match ctx.message.kind {
        Kind::Failure => {
            let failure = ctx.message.value();
            let text = format!("{}: {}", failure[0].text(), failure[1].text());
            ctx.settle_failure(turn, &format!("step_{}", step), &text);
        }
        Kind::Reply if step == 1 => {
            ctx.state = map! {"step" => 2, "turn" => turn, "first" => ctx.message.text()};
            ctx.ask("counter/two_step", &ctx.message.payload);
        }
        Kind::Reply => {
            ctx.state = map! {"step" => 3, "first" => &ctx.state["first"], "second" => ctx.message.text()};
            ctx.settle(turn, &ctx.state);
        }
        _ => {
            ctx.state = map! {"step" => 1, "turn" => ctx.postpone()};
            ctx.ask("echo/two_step", &ctx.message.payload);
        }
    }
}

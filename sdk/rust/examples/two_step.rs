//! two_step: asks one agent, asks another with its answer, and keeps and replies both.
use rota::{map, Context, Kind};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let step = ctx.state["step"].int_or(0);
    match ctx.message.kind {
        Kind::Failure => {
            let failure = ctx.message.value();
            ctx.fail(&format!("step_{}", step), &format!("{}: {}", failure[0].text(), failure[1].text()));
        }
        Kind::Reply if step == 1 => {
            ctx.state = map! {"step" => 2, "first" => ctx.message.text()};
            ctx.ask("counter/two_step", &ctx.message.payload);
        }
        Kind::Reply => {
            ctx.state = map! {"step" => 3, "first" => &ctx.state["first"], "second" => ctx.message.text()};
            ctx.reply(&ctx.state);
        }
        _ => {
            ctx.state = map! {"step" => 1};
            ctx.ask("echo/two_step", &ctx.message.payload);
            ctx.reply("asked");
        }
    }
}

//! The agent NAME: counts its messages, and replies how many there were.
use rota::Context;

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let count = ctx.state.int_or(0) + 1;
    ctx.state = count.into();
    ctx.log(&format!("message {count}"));
    ctx.reply(format!("{}: {count}", ctx.message.text()));
}

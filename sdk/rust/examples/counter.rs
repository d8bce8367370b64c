//! counter: counts its messages.
use rota::Context;

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let count = ctx.state.int_or(0) + 1;
    ctx.state = count.into();
    ctx.reply(count.to_string());
}

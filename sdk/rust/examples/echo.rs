//! echo: the smallest agent. It replies the payload and the tensors as they came.
use rota::Context;

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let tensors: Vec<u32> = ctx.message.tensors.iter().map(|tensor| tensor.index).collect();
    ctx.reply_with(&ctx.message.payload, &tensors);
}

//! desk: answers later: asks another agent and settles, keeps a task for a later message, or hands it on.
use rota::{list, map, Context, Kind, Options, Value};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let message = &ctx.message;
    let asked_in = message.reply_to.map_or(0, |reply_to| reply_to.asked_in); // the turn that was postponed
    let waiting = ctx.state.int_or(0) as u64;
    let tensors: Vec<u32> = message.tensors.iter().map(|tensor| tensor.index).collect();
    match (message.kind, &message.payload[..]) {
        (Kind::Reply, payload) => ctx.settle_with(asked_in, payload, &tensors),
        (Kind::Failure, _) => {
            let failure = message.value();
            ctx.settle_failure(asked_in, failure[0].text(), failure[1].text());
        }
        (_, b"wait") => ctx.state = ctx.postpone().into(),
        (_, b"answer") => {
            ctx.settle(waiting, map! {"waited" => waiting});
            ctx.reply("answered");
            ctx.state = Value::None;
        }
        (_, b"refuse") => {
            ctx.settle_failure(waiting, "refused", "the desk is closed");
            ctx.state = Value::None;
        }
        (_, b"pass") => {
            let options = Options { turn: waiting, priority: 3, deadline_ms: 60_000, ..Options::default() };
            ctx.hand_on_with("echo/y", list![waiting], options);
            ctx.state = Value::None;
        }
        (_, b"transfer") => ctx.hand_on_with("echo/x", "transfer", Options { tensors, ..Options::default() }),
        (_, payload) => {
            let options = Options { tensors, deadline_ms: 30_000, ..Options::default() };
            ctx.ask_with("echo/x", payload, options);
            ctx.postpone();
        }
    }
}

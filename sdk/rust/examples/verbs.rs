//! verbs: what the other examples leave out: priority, timer, log, tensors, any value as state.
use rota::{list, map, Context, Kind, Options};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let message = &ctx.message;
    ctx.log(&format!("{} from {}", message.kind, message.sender.as_deref().unwrap_or("outside")));
    if message.kind != Kind::Tell && message.kind != Kind::Ask {
        return ctx.reply(&message.payload);
    }
    let value = message.value();
    let tensors = message.tensors.iter().map(|tensor| tensor.index).collect();
    ctx.emit_with("log/main", &value, Options { priority: -3, tensors, ..Options::default() });
    let about = list![message.turn, message.now_ms, &message.address];
    let asked = ctx.ask_with("echo/x", about, Options { priority: 7, ..Options::default() });
    ctx.timer(250, "again");
    ctx.reply(map! {"asked" => asked, "entropy" => &message.entropy, "state" => &ctx.state});
    ctx.state = value;
}

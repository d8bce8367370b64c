//! ask_model: asks a language model, and replies the text of its answer when that comes.
use rota::{list, map, Context, Kind};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let message = &ctx.message;
    match message.kind {
        Kind::Reply => ctx.reply(&message.value()["generate"]["text"]),
        Kind::Failure => {
            let failure = message.value();
            ctx.reply(format!("{}: {}", failure[0].text(), failure[1].text()));
        }
        _ => {
            let messages = list![map! {"role" => "user", "content" => message.text()}];
            ctx.ask("model:smollm2", map! {"generate" => map! {"max_tokens" => 64, "messages" => messages}});
            ctx.reply("asked");
        }
    }
}

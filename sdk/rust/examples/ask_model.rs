//! ask_model: asks a language model, and answers with its text when that comes.
use rota::{list, map, Context, Kind};

rota::agent!(agent);

fn agent(ctx: &mut Context) {
    let message = &ctx.message;
    match (message.kind, message.reply_to) {
        (Kind::Reply, Some(to)) => ctx.settle(to.asked_in, &message.value()["generate"]["text"]),
        (Kind::Failure, Some(to)) => {
            let failure = message.value();
            ctx.settle_failure(to.asked_in, failure[0].text(), failure[1].text());
        }
        _ => {
            let messages = list![map! {"role" => "user", "content" => message.text()}];
            ctx.ask("model:smollm2", map! {"generate" => map! {"max_tokens" => 64, "messages" => messages}});
            ctx.postpone();
        }
    }
}

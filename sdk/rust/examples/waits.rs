//! waits: a flow that waits and ends in the way that its message says.
use rota::{as_completed, join_all, list, map, Answer, AskFailed, Call, Options, Value};

rota::flow!(waits);

async fn waits(ctx: Call) -> Result<Option<Answer>, AskFailed> {
    match ctx.message.text() {
        "all" => all(&ctx).await,
        "as they come" => as_they_come(&ctx).await,
        "generate" => {
            let answer = ctx.generate("smollm2", map! {"prompt" => "Once", "max_tokens" => 4}).await?;
            ctx.reply(&answer["text"]);
        }
        "give on" => return Ok(Some(ctx.ask("a/b", "").await?)),
        "keep" => {
            let kept = ctx.ask("a/kept", "");
            drop(ctx.ask("a/dropped", ""));
            ctx.sleep(1_000).await; // the answers come meanwhile
            ctx.reply(kept.await?.text());
        }
        "clock" => {
            ctx.sleep(1_000).await;
            let soon = Options { deadline_ms: 500, ..Options::default() };
            ctx.ask("a/b", "").await?;
            ctx.ask_with("a/b", ctx.now_ms() - ctx.message.now_ms, soon).await?;
        }
        "tensor" => {
            let input = ctx.ask("a/b", "").await?;
            let made = ctx.tensor("uint8", &[2], &[7, 8]);
            let mut data = [0; 2];
            made.read(0, &mut data);
            ctx.reply_with(list![i64::from(data[0]), i64::from(data[1])], &[made.index, input.tensors[0].index]);
        }
        "old tensor" => {
            let made = ctx.tensor("uint8", &[1], &[7]);
            ctx.sleep(1).await;
            ctx.reply_with("late", &[made.index]);
        }
        "reply early" => {
            ctx.reply("early");
            ctx.sleep(1).await;
        }
        "nothing" => std::future::pending().await,
        _ => ctx.fail("unknown", "there is no such way"),
    }
    Ok(None)
}

async fn all(ctx: &Call) {
    let answers = join_all(["a", "b", "c"].iter().map(|key| ctx.ask(&format!("a/{}", key), ""))).await;
    let shown = answers.iter().map(|answer| match answer {
        Ok(answer) => answer.text().to_owned(),
        Err(failed) => failed.to_string(),
    });
    ctx.reply(Value::List(shown.map(Value::from).collect()));
}

async fn as_they_come(ctx: &Call) {
    let mut coming = as_completed(["a", "b", "c"].iter().map(|key| ctx.ask(&format!("a/{}", key), "")));
    let mut places = Vec::new();
    while let Some((place, _)) = coming.next().await {
        ctx.log(&format!("place {}", place));
        places.push(Value::from(place as u64));
    }
    ctx.reply(Value::List(places));
}

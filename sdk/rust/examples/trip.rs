//! trip: a flow that asks two agents and a model at once, then two desks of which one has to answer.
use rota::{first, list, map, try_join_all, AskFailed, Call, Options};

rota::flow!(trip);

async fn trip(ctx: Call) -> Result<(), AskFailed> {
    let city = ctx.message.text();
    ctx.log(&format!("a trip to {}", city));
    let soon = Options { priority: 2, deadline_ms: 30_000, ..Options::default() };
    let prompt = format!("A day in {}:", city);
    let found = try_join_all([
        ctx.ask("weather/today", city),
        ctx.ask_with("hotel/best", map! {"city" => city, "nights" => 2}, soon),
        ctx.ask("model:smollm2", map! {"generate" => map! {"max_tokens" => 32, "prompt" => prompt}}),
    ])
    .await?;
    let (weather, hotel, plan) = (&found[0], &found[1], &found[2]);

    ctx.emit("log/main", list!["found", hotel.text()]);
    let tensors: Vec<u32> = hotel.tensors.iter().map(|tensor| tensor.index).collect();
    let book = |desk| ctx.ask_with(desk, &hotel.payload, Options { tensors: tensors.clone(), ..Options::default() });
    let booked = match first([book("booking/a"), book("booking/b")]).await {
        Ok(booked) => booked,
        Err(failed) => {
            ctx.sleep(250).await;
            ctx.ask("booking/c", list![failed.kind, failed.message]).await?
        }
    };
    let plan = &plan.value()["generate"]["text"];
    let found = map! {"weather" => weather.text(), "plan" => plan, "booked" => booked.value()};
    let own: Vec<u32> = ctx.message.tensors.iter().map(|tensor| tensor.index).collect();
    ctx.reply_with(found, &own);
    Ok(())
}

//! failing: fails as its payload says, "fail", "crash", "deep" or "spin"; else it replies the payload.
use rota::Context;

rota::agent!(agent);

#[allow(unconditional_recursion)]
fn deep(depth: u64) -> String {
    format!("{}{}", deep(depth + 1), depth)
}

fn agent(ctx: &mut Context) {
    let what = ctx.message.text();
    if ["fail", "crash", "deep", "spin"].contains(&what) {
        ctx.log("before it");
    }
    match what {
        "fail" => ctx.fail("asked_to_fail", "the payload said so"),
        "crash" => panic!("crashed"),
        "deep" => ctx.reply(deep(0)),
        "spin" => loop {
            std::hint::spin_loop();
        },
        _ => ctx.reply(what),
    }
}

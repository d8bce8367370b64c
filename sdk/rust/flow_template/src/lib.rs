//! The flow NAME: counts the letters of a text. It asks a call of its own for each word, all at once.
use rota::{try_join_all, AskFailed, Call};

rota::flow!(flow);

async fn flow(ctx: Call) -> Result<String, AskFailed> {
    let words: Vec<&str> = ctx.message.text().split_whitespace().collect();
    if let [word] = words[..] {
        return Ok(format!("{word}: {}", word.chars().count()));
    }
    ctx.log(&format!("{} words", words.len()));
    // What is awaited may take days: the call waits in the lane, and no worker holds it meanwhile.
    let answers = try_join_all(words.iter().map(|word| ctx.ask("NAME", *word))).await?;
    Ok(answers.iter().map(|answer| answer.text()).collect::<Vec<_>>().join(", "))
}

//! Follows a job with a progress bar, through lost connections and restarts of the server.

use std::time::Duration;

use anyhow::bail;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio_stream::StreamExt;

use super::server::{Job, Refused, Server};
use super::sse::{Event, Events};

/// Pause before a lost connection is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The server says something every ten seconds; after this long without a word the connection is lost.
const SILENCE: Duration = Duration::from_secs(30);
/// Lost connections in a row after which the server is given up.
const MOST_LOST: u32 = 120;

/// Shows a job until it is over; an error unless it succeeded.
pub(super) async fn watch(server: &Server, id: &str) -> anyhow::Result<()> {
    let first = server.job(id).await?;
    let bar = bar(&first);
    let mut after = 0;
    let mut lost = 0;
    loop {
        let followed = follow(server, id, &bar, &mut after).await;
        match server.job(id).await {
            Ok(job) if over(&job)? => return end(&bar, &job),
            Ok(_) => lost = 0,
            Err(error) => {
                lost += 1;
                if lost >= MOST_LOST || error.is::<Refused>() {
                    bar.abandon();
                    return Err(error);
                }
                bar.set_message("the server does not answer; trying again");
            }
        }
        // A server that is stopping ends its streams, and answers for a while yet.
        drop(followed);
        tokio::time::sleep(AGAIN).await;
    }
}

fn bar(job: &Job) -> ProgressBar {
    let (done, total) = job.progress();
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} units  {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_position(done);
    if let Some(position) = job.position() {
        bar.set_message(format!("waits behind {position} jobs"));
    }
    bar
}

/// Until the stream ends.
async fn follow(server: &Server, id: &str, bar: &ProgressBar, after: &mut i64) -> anyhow::Result<()> {
    let response = server.events(id, *after).await?;
    let mut stream = response.bytes_stream();
    let mut events = Events::default();
    while let Some(bytes) = tokio::time::timeout(SILENCE, stream.next()).await? {
        for event in events.push(&bytes?) {
            *after = event.id.unwrap_or(*after);
            show(bar, &event);
        }
    }
    Ok(())
}

fn show(bar: &ProgressBar, event: &Event) {
    let number = |name: &str| event.data.get(name).and_then(Value::as_f64);
    match event.kind.as_str() {
        "progress" => {
            if let Some(done) = number("units_done") {
                bar.set_position(done as u64);
            }
            if let Some(left) = number("eta_s") {
                bar.set_message(format!("{} left", readable(left)));
            }
            // Where nobody watches a terminal, a line now and then.
            let done = bar.position();
            let tenth = bar.length().unwrap_or(0).div_ceil(10).max(1);
            if !Term::stderr().is_term() && done.is_multiple_of(tenth) {
                eprintln!("{done}/{} units", bar.length().unwrap_or(0));
            }
        }
        "state" => {
            let state = event.data.get("state").and_then(Value::as_str).unwrap_or_default();
            bar.set_message(state.to_owned());
        }
        _ => {}
    }
}

fn readable(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

fn over(job: &Job) -> anyhow::Result<bool> {
    Ok(!["queued", "running"].contains(&job.state()?))
}

fn end(bar: &ProgressBar, job: &Job) -> anyhow::Result<()> {
    bar.set_position(job.progress().0);
    let state = job.state()?;
    bar.finish_with_message(state.to_owned());
    match state {
        "succeeded" => Ok(()),
        "failed" => bail!("the job failed: {}", job.error().unwrap_or("it does not say why")),
        state => bail!("the job is {state}"),
    }
}

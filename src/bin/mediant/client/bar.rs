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

/// What is left of a bar at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It stays, and where nobody watches a terminal there are lines.
    Shown,
    /// It goes: the answer comes in its place.
    Cleared,
    /// There is none.
    Silent,
}

/// The job goes on; who waited for it does not.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the job goes on: mediant watch {0}, mediant cancel {0}")]
pub(crate) struct Interrupted(String);

/// Waits for a job, which goes on when one is interrupted.
pub(super) async fn attend(server: &Server, id: &str, kept: Kept) -> anyhow::Result<()> {
    tokio::select! {
        over = watch(server, id, kept) => over,
        _ = tokio::signal::ctrl_c() => Err(Interrupted(id.to_owned()).into()),
    }
}

/// Shows a job until it is over; an error unless it succeeded.
async fn watch(server: &Server, id: &str, kept: Kept) -> anyhow::Result<()> {
    let first = server.job(id).await?;
    let bar = bar(&first, kept);
    let mut after = 0;
    let mut lost = 0;
    loop {
        let followed = follow(server, id, &bar, &mut after, kept).await;
        match server.job(id).await {
            Ok(job) if over(&job)? => return end(&bar, &job, kept),
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

fn bar(job: &Job, kept: Kept) -> ProgressBar {
    let (done, total) = job.progress();
    let to = if kept == Kept::Silent { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), to);
    let style =
        ProgressStyle::with_template("{bar:32} {percent} %  {pos} of {len} units  {elapsed} gone  {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_position(done);
    if let Some(position) = job.position() {
        bar.set_message(waits(position));
    }
    bar
}

/// How many jobs are before one.
fn waits(position: u64) -> String {
    match position {
        0 => "is next".to_owned(),
        1 => "waits behind 1 job".to_owned(),
        more => format!("waits behind {more} jobs"),
    }
}

/// Until the stream ends.
async fn follow(
    server: &Server,
    id: &str,
    bar: &ProgressBar,
    after: &mut i64,
    kept: Kept,
) -> anyhow::Result<()> {
    let response = server.events(id, *after).await?;
    let mut stream = response.bytes_stream();
    let mut events = Events::default();
    while let Some(bytes) = tokio::time::timeout(SILENCE, stream.next()).await? {
        for event in events.push(&bytes?) {
            *after = event.id.unwrap_or(*after);
            show(bar, &event, kept);
        }
    }
    Ok(())
}

fn show(bar: &ProgressBar, event: &Event, kept: Kept) {
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
            if kept == Kept::Shown && !Term::stderr().is_term() && done.is_multiple_of(tenth) {
                let total = bar.length().unwrap_or(0).max(1);
                eprintln!("{} %  {done} of {total} units", 100 * done / total);
            }
        }
        "state" => {
            let state = event.data.get("state").and_then(Value::as_str).unwrap_or_default();
            bar.set_message(state.to_owned());
        }
        _ => {}
    }
}

pub(super) fn readable(seconds: f64) -> String {
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

fn end(bar: &ProgressBar, job: &Job, kept: Kept) -> anyhow::Result<()> {
    bar.set_position(job.progress().0);
    let state = job.state()?;
    if kept == Kept::Cleared {
        bar.finish_and_clear();
    } else {
        bar.finish_with_message(state.to_owned());
    }
    match state {
        "succeeded" => {
            if kept == Kept::Shown && !Term::stderr().is_term() {
                let took = job.took().map(|s| format!(" in {}", readable(s))).unwrap_or_default();
                eprintln!("succeeded{took}");
            }
            Ok(())
        }
        "failed" => bail!("the job failed: {}", job.error().unwrap_or("it does not say why")),
        state => bail!("the job is {state}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_first_waits_behind_none() {
        assert_eq!([0, 1, 2].map(waits), ["is next", "waits behind 1 job", "waits behind 2 jobs"]);
    }
}

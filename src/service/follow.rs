//! Tells what happens to a request while it is computed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{Refusal, Service};
use crate::capacity::{Lane, Share};
use crate::engine::growth::{Growth, Stage};
use crate::plan::cost::Cost;
use crate::plan::pack::Mode;
use crate::plan::{Plan, Score, cone};
use crate::result::common::Envelope;
use crate::result::live::{self, SoFar, Told};
use crate::result::respond::{Computed, Respond};

/// How often it is told what is new.
const EVERY: Duration = Duration::from_millis(200);
/// After so many of these it is told how long the rest will take, if nothing else is.
const QUIET: u32 = 5;

/// Something that happened: an event's name and data.
pub type Happened = (&'static str, Value);

/// Where it is told.
pub type Tell = mpsc::UnboundedSender<Happened>;

impl SoFar for Growth {
    fn counts(&self, groups: &mut dyn Iterator<Item = &[usize]>) -> Vec<usize> {
        Growth::counts(self, groups.map(|group| group.iter().copied()))
    }

    fn scores(&self, readouts: &[usize]) -> HashMap<usize, Score> {
        self.scored(readouts.iter().copied())
    }
}

impl Service {
    /// Computes a plan, and tells of it if somebody listens: `start` when it was let in, `cells` and `progress` as they come.
    pub(super) async fn told_of<L: Respond>(
        &self,
        kind: &'static str,
        share: &Share,
        layout: &Arc<L>,
        envelope: &Envelope,
        prelude: Option<Plan>,
        plan_of: Plan,
    ) -> Result<Computed, Refusal> {
        let Some(tell) = &self.tell else { return self.compute(share, prelude, plan_of).await };
        let (of_layout, envelope, engine) = (Arc::clone(layout), envelope.clone(), self.engine.clone());
        let layers = self.served.config().num_layers as u32;
        let known = self.off_workers(share, Lane::Prepare, move |_, _| {
            let cost = |plan: &Plan| engine.prepare(plan, Mode::Branching).map(|prepared| prepared.cost);
            let first = prelude.as_ref().map_or(Ok(Cost::default()), cost)?;
            let cost = cost(&plan_of)?.and(&first);
            let start = live::start(kind, &*of_layout, &cone::resolved(&plan_of, layers), &cost, &envelope);
            Ok((start, prelude, plan_of))
        });
        let (start, prelude, plan_of) = known.await?;
        // Of the plan before it no cells are told.
        let (mut plan, last) = (0, 1 + usize::from(prelude.is_some()));
        let (mut start, mut growth, mut told) = (Some(start), None::<Growth>, Told::default());
        let mut stage = watch::Sender::new(Stage::default()).subscribe();
        let (mut plans, mut tick) = (self.follower.plan(), tokio::time::interval(EVERY));
        // Work done when it was last told, and for how many ticks nothing was.
        let (mut done, mut quiet) = (None, 0);
        let mut work = std::pin::pin!(self.compute(share, prelude, plan_of));
        loop {
            let ticked = tokio::select! {
                biased;
                computed = &mut work => {
                    if let Some(start) = start.filter(|_| computed.is_ok()) {
                        let _ = tell.send(("start", start));
                    }
                    return computed;
                }
                Ok(()) = plans.changed() => {
                    growth.clone_from(&plans.borrow_and_update());
                    stage = growth.as_ref().map_or(stage, Growth::stage);
                    plan += 1;
                    false
                }
                Ok(()) = stage.changed() => false,
                _ = tick.tick() => true,
            };
            let now = *stage.borrow_and_update();
            if let Some(start) = start.take_if(|_| now.admitted) {
                let _ = tell.send(("start", start));
            }
            if !ticked || !now.admitted {
                continue;
            }
            quiet += 1;
            let is_more = done != Some(now.done);
            if is_more || quiet == QUIET {
                let queue = || self.engine.first_of(share.owner()).map(|queue| queue.seconds);
                let _ = tell.send(("progress", progress(&now, queue)));
                (done, quiet) = (Some(now.done), 0);
            }
            if let Some(growth) = growth.clone().filter(|_| is_more && plan == last && now.done > 0) {
                let (layout, mut before) = (Arc::clone(layout), std::mem::take(&mut told));
                let more = self.off_workers(share, Lane::Finish, move |_, _| {
                    let cells = live::cells(&*layout, &growth, &mut before);
                    Ok((cells, before))
                });
                let (cells, after) = more.await?;
                told = after;
                if let Some(cells) = cells {
                    let _ = tell.send(("cells", cells));
                }
            }
        }
    }
}

/// Event `progress`: work done of all, and how long the rest will take.
fn progress(now: &Stage, queue: impl FnOnce() -> Option<f64>) -> Value {
    let pace =
        now.begun.filter(|_| now.done > 0).map(|begun| begun.elapsed().as_secs_f64() / now.done as f64);
    let left = pace.map_or_else(queue, |pace| Some(pace * (now.all - now.done) as f64));
    json!({"done": now.done, "all": now.all, "seconds_left": left})
}

//! Token sequences scored by teacher forcing: `log P(t1 .. tn | prompt)`, the sum over the sequence of each token's log-
//! probability after the prompt and the tokens before it.
//!
//! A plan asks for sequences in [`Scoring::sequences`](super::Scoring). [`Expansion`] turns it into a plan without any:
//! every run's prompt is followed by `t1 .. t(n-1)`, and every readout at a run's last position by one readout at each of
//! them. Sequences that begin alike share their rows; for each continuation that is no beginning of another there is a
//! copy of all runs. Edits stay at the prompt's positions, so that a copy's rows there have the bits of the original's,
//! and a patched copy still branches from its parent. [`Fold::output`] puts the scores together again, in the indices of
//! the plan that was asked for.

use std::ops::Range;
use std::sync::Arc;

use super::output::PlanOutput;
use super::{Plan, Readout, Run, RunId, Score, Source};

/// The suffixes that prompts need so that every sequence can be scored: all sequences without their last token, less those
/// that others begin with. Empty if every sequence is one token.
pub fn continuations(sequences: &[Arc<[u32]>]) -> Vec<&[u32]> {
    let mut kept: Vec<&[u32]> = Vec::new();
    for sequence in sequences {
        let suffix = sequence.split_last().map_or(&[][..], |(_, before)| before);
        if suffix.is_empty() || kept.iter().any(|other| other.starts_with(suffix)) {
            continue;
        }
        kept.retain(|other| !suffix.starts_with(other));
        kept.push(suffix);
    }
    kept
}

/// A plan whose sequences have become runs and readouts of their own.
#[derive(Debug, Clone)]
pub struct Expansion {
    /// What is computed. Runs, readouts and captures of the plan asked for keep their indices; what is added comes after.
    pub plan: Plan,
    fold: Fold,
}

/// What the numbers of an expanded plan mean.
#[derive(Debug, Clone)]
pub struct Fold {
    /// Runs of the plan asked for.
    runs: usize,
    /// Its targets.
    targets: usize,
    /// The run of each of its readouts, and that run's [`Run::context`].
    readouts: Vec<(RunId, u32)>,
    /// The first added readout of each of its readouts; `None` where no sequence is scored.
    continued: Vec<Option<usize>>,
    /// Readouts added for each that is continued.
    block: usize,
    /// For every sequence the index of each token among the targets, and, of all but the first, the readout in the block.
    sequences: Vec<Vec<(usize, usize)>>,
    /// Columns of a head at `scores` and `pattern`.
    strides: Strides,
    /// Captures at those sites.
    over_keys: Vec<usize>,
}

/// Columns of a head at `scores` and `pattern`, before and after runs were made longer.
#[derive(Debug, Clone, Copy)]
struct Strides {
    from: u32,
    to: u32,
}

impl Strides {
    /// The same columns of the wider matrix.
    fn columns(self, columns: &Range<u32>) -> Range<u32> {
        let at = |column: u32| column / self.from * self.to + column % self.from;
        at(columns.start)..at(columns.end - 1) + 1
    }

    /// Rows of the wider matrix without the columns added.
    fn narrow(self, rows: &[f32]) -> Vec<f32> {
        rows.chunks(self.to as usize).flat_map(|head| &head[..self.from as usize]).copied().collect()
    }
}

impl Expansion {
    /// Works out what has to be computed.
    pub fn new(plan: &Plan) -> Expansion {
        let suffixes = continuations(&plan.scoring.sequences);
        let mut expanded = Plan {
            runs: Vec::with_capacity(plan.runs.len() * suffixes.len().max(1)),
            readouts: plan.readouts.clone(),
            captures: plan.captures.clone(),
            kept: plan.kept.clone(),
            scoring: plan.scoring.clone(),
        };
        expanded.scoring.sequences.clear();
        for token in plan.scoring.sequences.iter().flat_map(|sequence| sequence.iter()) {
            if !expanded.scoring.targets.contains(token) {
                expanded.scoring.targets.push(*token);
            }
        }
        if suffixes.is_empty() {
            expanded.runs.clone_from(&plan.runs);
        }
        let longest = suffixes.iter().map(|suffix| suffix.len()).max().unwrap_or(0) as u32;
        // The longest prompt may stand before a shorter suffix, so this may be more keys than any row has.
        let strides = Strides { from: plan.keys(), to: plan.keys() + longest };
        for (copy, suffix) in suffixes.iter().enumerate() {
            copy_runs(plan, copy, suffix, strides, &mut expanded.runs);
        }
        let block: usize = suffixes.iter().map(|suffix| suffix.len()).sum();
        let continued = plan.readouts.iter().map(|readout| {
            let is_last = readout.position as usize + 1 == plan.run(readout.run).tokens.len();
            let is_last = is_last && readout.lens.is_none();
            if plan.scoring.sequences.is_empty() || !is_last {
                return None;
            }
            let first = expanded.readouts.len();
            for (copy, suffix) in suffixes.iter().enumerate() {
                let run = copied(readout.run, copy, plan);
                let positions = readout.position + 1..=readout.position + suffix.len() as u32;
                expanded.readouts.extend(positions.map(|position| Readout { run, position, lens: None }));
            }
            Some(first)
        });
        let continued = continued.collect();
        let sequences =
            plan.scoring.sequences.iter().map(|s| places(s, &suffixes, &expanded.scoring.targets));
        let fold = Fold {
            runs: plan.runs.len(),
            targets: plan.scoring.targets.len(),
            readouts: plan.readouts.iter().map(|r| (r.run, plan.run(r.run).context)).collect(),
            continued,
            block,
            sequences: sequences.collect(),
            strides,
            over_keys: (0..plan.captures.len())
                .filter(|c| plan.captures[*c].at.site.is_over_keys())
                .collect(),
        };
        Expansion { plan: expanded, fold }
    }

    /// The expanded plan and what its numbers mean.
    pub fn parts(self) -> (Plan, Fold) {
        (self.plan, self.fold)
    }
}

/// `run` in a copy of all runs.
fn copied(run: RunId, copy: usize, plan: &Plan) -> RunId {
    RunId(run.0 + (copy * plan.runs.len()) as u32)
}

/// Appends all runs with a suffix. Token lists that were shared stay so.
fn copy_runs(plan: &Plan, copy: usize, suffix: &[u32], strides: Strides, into: &mut Vec<Run>) {
    let first = into.len();
    for run in &plan.runs {
        let tokens = match run.parent {
            Some(parent) => Arc::clone(&into[first + parent.0 as usize].tokens),
            None => run.tokens.iter().chain(suffix).copied().collect(),
        };
        let mut edits = run.edits.clone();
        for edit in &mut edits {
            if let Some(Source::Run { run, .. }) = edit.op.source_mut() {
                *run = copied(*run, copy, plan);
            }
            if edit.at.site.is_over_keys() {
                edit.columns = edit.columns.take().map(|columns| strides.columns(&columns));
            }
        }
        let parent = run.parent.map(|parent| copied(parent, copy, plan));
        into.push(Run { tokens, prompt: run.prompt, parent, edits, context: run.context });
    }
}

/// Where the tokens of a sequence are read: `(target, readout in the block)`; the first token's readout is the prompt's
/// own, and its second number is not used.
fn places(sequence: &[u32], suffixes: &[&[u32]], targets: &[u32]) -> Vec<(usize, usize)> {
    let target = |token: &u32| {
        targets.iter().position(|t| t == token).expect("BUG: sequences' tokens were added to the targets")
    };
    let mut start = 0;
    for suffix in suffixes {
        if suffix.starts_with(&sequence[..sequence.len() - 1]) {
            break;
        }
        start += suffix.len();
    }
    sequence.iter().enumerate().map(|(i, token)| (target(token), start + i.max(1) - 1)).collect()
}

impl Fold {
    /// Puts the output of the expanded plan into the indices of the plan asked for: sequences are scored, what only they
    /// needed is dropped, and every score is told its run's context and what that run's own edits changed.
    #[must_use]
    pub fn output(&self, mut output: PlanOutput) -> PlanOutput {
        output.written.truncate(self.runs);
        output.cells.truncate(self.runs);
        for &capture in self.over_keys.iter().filter(|_| self.strides.from < self.strides.to) {
            output.captures[capture] = self.strides.narrow(&output.captures[capture]);
        }
        let continuations = output.scores.split_off(self.readouts.len().min(output.scores.len()));
        for (i, score) in output.scores.iter_mut().enumerate() {
            let first = self.continued[i].map_or(0, |first| first - self.readouts.len());
            self.tell(i, score, |at| &continuations[first + at]);
            if score.missing.is_none() {
                let (run, _) = self.readouts[i];
                score.written = output.written.get(run.0 as usize).copied().unwrap_or(0.0);
            }
        }
        output
    }

    /// Scores the sequences of a readout and drops what only they needed. `block`: the scores of its continuation.
    fn tell<'s>(&self, readout: usize, score: &mut Score, block: impl Fn(usize) -> &'s Score) {
        let context = self.readouts[readout].1;
        score.context = context;
        if self.continued[readout].is_some() {
            // A text of which a token is missing has no probability, and the answer no numbers that fit together.
            let missing = score.missing.or_else(|| (0..self.block).find_map(|part| block(part).missing));
            if missing.is_some() {
                *score = Score { context, missing, ..Score::default() };
                return;
            }
            score.sequences = self.sequences.iter().map(|s| sequence_logprob(s, score, &block)).collect();
        }
        if score.missing.is_none() {
            score.logits.truncate(self.targets);
            score.ranks.truncate(self.targets);
        }
    }

    /// The score of a readout of the plan asked for, if all that it takes is there. What its run's own edits changed is not
    /// known before all is computed: that is NaN.
    pub fn score<'s>(&self, readout: usize, expanded: impl Fn(usize) -> Option<&'s Score>) -> Option<Score> {
        let mut score = expanded(readout)?.clone();
        let first = self.continued[readout].unwrap_or(0);
        let parts = if self.continued[readout].is_some() { self.block } else { 0 };
        let block = (first..first + parts).map(&expanded).collect::<Option<Vec<_>>>()?;
        self.tell(readout, &mut score, |part| block[part]);
        score.written = f64::NAN;
        Some(score)
    }

    /// Whether all is there that the score of a readout takes.
    pub fn is_there(&self, readout: usize, expanded: impl Fn(usize) -> bool) -> bool {
        let block = self.continued[readout].map_or(0..0, |first| first..first + self.block);
        expanded(readout) && block.into_iter().all(expanded)
    }

    /// The same for the runs that readouts really come from. A readout counts as another run's only if all of its
    /// continuations are that run's too.
    pub fn resolved(&self, expanded: &[RunId]) -> Vec<RunId> {
        let own = expanded.iter().zip(&self.continued).take(self.readouts.len());
        own.map(|(own, first)| {
            let block = first.map_or(&[][..], |first| &expanded[first..first + self.block]);
            let original = |run: &RunId| RunId(run.0 % self.runs as u32);
            // All are on one chain of ancestors: if the youngest is shared, so is every other.
            block.iter().map(original).fold(*own, Ord::max)
        })
        .collect()
    }
}

/// Natural log of a sequence's probability; `block` holds the scores of its continuation.
fn sequence_logprob<'s>(
    tokens: &[(usize, usize)],
    prompt: &Score,
    block: &impl Fn(usize) -> &'s Score,
) -> f64 {
    let each = tokens.iter().enumerate().map(|(i, (target, place))| {
        let score = if i == 0 { prompt } else { block(*place) };
        f64::from(score.logits[*target]) - score.log_sum_exp
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cone::resolved;
    use crate::plan::{Address, Edit, EditGroup, Op};
    use crate::spec::site::Site;

    fn sequences(lists: &[&[u32]]) -> Vec<Arc<[u32]>> {
        lists.iter().map(|list| Arc::from(*list)).collect()
    }

    fn replace(layer: u32, position: u32, run: RunId) -> Edit {
        let op = Op::Replace(Source::Run { run, positions: vec![position] });
        Edit::new(Address { layer, site: Site::ResidPost }, vec![position], op, EditGroup::Patch)
    }

    /// Two prompts of three tokens, the second patched into the first.
    fn plan(layer: u32, position: u32, lists: &[&[u32]]) -> Plan {
        let mut plan = Plan::default();
        let a = plan.root(Arc::from([1, 2, 3]));
        let b = plan.root(Arc::from([1, 5, 3]));
        let cell = plan.branch(a, vec![replace(layer, position, b)]);
        for run in [a, b, cell] {
            plan.read(run, 2);
        }
        plan.scoring.targets = vec![7];
        plan.scoring.sequences = sequences(lists);
        plan
    }

    #[test]
    fn a_continuation_that_others_begin_with_needs_no_copy_of_its_own() {
        let of = |lists: &[&[u32]]| {
            continuations(&sequences(lists)).into_iter().map(<[u32]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(of(&[&[7], &[8]]), Vec::<Vec<u32>>::new());
        assert_eq!(of(&[&[7, 8], &[7, 9]]), [[7]]);
        assert_eq!(of(&[&[7, 8], &[7, 9, 1], &[7, 9, 2, 3]]), [[7, 9, 2]]);
        assert_eq!(of(&[&[7, 8], &[6, 8], &[7, 9]]), [[7], [6]]);
    }

    #[test]
    fn every_run_is_copied_for_every_continuation_and_read_at_each_of_its_tokens() {
        let plan = plan(1, 1, &[&[7, 8, 9], &[6, 8]]);
        let expanded = Expansion::new(&plan).plan;
        let tokens: Vec<&[u32]> = expanded.runs.iter().map(|run| &*run.tokens).collect();
        assert_eq!(
            tokens,
            [
                &[1, 2, 3, 7, 8][..],
                &[1, 5, 3, 7, 8],
                &[1, 2, 3, 7, 8],
                &[1, 2, 3, 6],
                &[1, 5, 3, 6],
                &[1, 2, 3, 6]
            ]
        );
        assert_eq!(expanded.runs[5].parent, Some(RunId(3)));
        let Op::Replace(Source::Run { run, positions }) = &expanded.runs[5].edits[0].op else {
            panic!("a copy stays one")
        };
        assert_eq!((*run, &positions[..]), (RunId(4), &[1][..]));
        let places: Vec<(u32, u32)> = expanded.readouts.iter().map(|r| (r.run.0, r.position)).collect();
        let own = [(0, 2), (1, 2), (2, 2)];
        let added = [(0, 3), (0, 4), (3, 3), (1, 3), (1, 4), (4, 3), (2, 3), (2, 4), (5, 3)];
        assert_eq!(places, [&own[..], &added].concat());
        assert_eq!(expanded.scoring.targets, [7, 8, 9, 6]);
        assert!(expanded.scoring.sequences.is_empty());
    }

    #[test]
    fn a_sequence_adds_the_log_probability_of_each_of_its_tokens() {
        let plan = plan(1, 1, &[&[7, 8, 9], &[6, 8], &[7], &[7, 6]]);
        let (expanded, fold) = Expansion::new(&plan).parts();
        // Readout i gives target t (7, 8, 9, 6) the logit -(10 i + t) and its distribution the log-sum 1 / (i + 1).
        let score = |i: usize| Score {
            log_sum_exp: 1.0 / (i as f64 + 1.0),
            logits: (0..4).map(|t| -((10 * i + t) as f32)).collect(),
            ranks: vec![1; 4],
            top: vec![(0, 0.0)],
            ..Score::default()
        };
        let output = PlanOutput {
            scores: (0..expanded.readouts.len()).map(score).collect(),
            written: vec![0.0, 0.0, 6.25, 0.0, 0.0, 9.0],
            ..PlanOutput::default()
        };
        let folded = fold.output(output);
        assert_eq!(folded.scores.len(), 3);
        assert_eq!(folded.written, [0.0, 0.0, 6.25]);
        let cell = &folded.scores[2];
        assert_eq!((cell.logits.len(), cell.ranks.len(), cell.written), (1, 1, 6.25));
        let logprob = |i: usize, t: usize| -((10 * i + t) as f64) - 1.0 / (i as f64 + 1.0);
        // Its own readout is 2; those of its continuation are 9 and 10 (after 7, and after 7 8) and 11 (after 6).
        let expected = [
            logprob(2, 0) + logprob(9, 1) + logprob(10, 2),
            logprob(2, 3) + logprob(11, 1),
            logprob(2, 0),
            logprob(2, 0) + logprob(9, 3),
        ];
        assert_eq!(cell.sequences, expected);
        // The same while it is computed, as soon as all of its continuation is there.
        let without = |absent: usize| {
            let scores: Vec<Score> = (0..expanded.readouts.len()).map(score).collect();
            fold.score(2, |at| scores.get(at).filter(|_| at != absent)).map(|score| score.sequences)
        };
        assert_eq!((without(99), without(10)), (Some(expected.to_vec()), None));
        assert!(fold.is_there(2, |at| at != 8) && !fold.is_there(2, |at| at != 11));
    }

    #[test]
    fn a_readout_is_its_parents_only_if_its_continuations_are() {
        let at = |layer, lists| resolved(&plan(layer, 1, lists), 4)[2];
        assert_eq!(at(3, &[]), RunId(0), "position 1 of the last layer is never read");
        assert_eq!(at(3, &[&[7, 8], &[6, 8]]), RunId(0));
        assert_eq!(at(2, &[&[7, 8], &[6, 8]]), RunId(2));
        // The next token's readout is position 0's at no layer, but its continuation is no one's either.
        let last = |lists| resolved(&plan(3, 2, lists), 4)[2];
        assert_eq!((last(&[]), last(&[&[7, 8]])), (RunId(2), RunId(2)));
    }

    #[test]
    fn a_readout_before_the_last_position_has_no_continuation() {
        let mut plan = plan(1, 1, &[&[7, 8]]);
        plan.read(RunId(1), 0);
        let (expanded, fold) = Expansion::new(&plan).parts();
        assert_eq!(expanded.readouts.len(), 4 + 3);
        let score = Score { logits: vec![-1.0; 2], ..Score::default() };
        let folded = fold.output(PlanOutput { scores: vec![score; 7], ..PlanOutput::default() });
        assert_eq!((folded.scores[0].sequences.len(), folded.scores[3].sequences.len()), (1, 0));
    }
}

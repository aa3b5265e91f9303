//! Texts of several tokens: scored as whole prompts one token after the other would be, patched or not, to the bit.

use std::sync::Arc;

use mediant::plan::output::PlanOutput;
use mediant::plan::pack::Mode;
use mediant::plan::sequences::Expansion;
use mediant::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use mediant::spec::site::Site;

use crate::tiny::{llama, run};

const CLEAN: [u32; 6] = [17, 301, 5, 44, 209, 498];
const OTHER: [u32; 6] = [17, 301, 88, 12, 209, 498];
const LAST: u32 = 5;
/// Two that begin alike, one that doesn't, and one of a single token.
const SEQUENCES: [&[u32]; 4] = [&[7, 30, 41], &[7, 30, 99], &[7, 8], &[250, 3]];

/// Clean and other run, each followed by `suffix`, and the other's states patched into the clean run: the residual stream,
/// a head of z, and embeddings with noise.
fn plan(suffix: &[u32]) -> Plan {
    let mut plan = Plan::default();
    let root = |plan: &mut Plan, prompt: &[u32]| plan.root(prompt.iter().chain(suffix).copied().collect());
    let clean = root(&mut plan, &CLEAN);
    let other = root(&mut plan, &OTHER);
    let edit = |layer, site, position: u32, columns, op| Edit {
        at: Address { layer, site },
        positions: vec![position],
        columns,
        op,
        instead: None,
        through: None,
        group: EditGroup::Patch,
    };
    let copy = |position: u32| Op::Replace(Source::Run { run: other, positions: vec![position] });
    let noise: Arc<[f32]> = (0..64).map(|i| (i as f32).sin()).collect();
    let noise = Op::Add { source: Source::Constant(noise), coef: 0.5, norm_match: false };
    for edits in [
        vec![edit(1, Site::ResidPost, 2, None, copy(2))],
        vec![edit(3, Site::ResidPost, LAST, None, copy(LAST))],
        vec![edit(2, Site::Z, 3, Some(16..32), copy(3)), edit(0, Site::Embed, 1, None, noise)],
    ] {
        plan.branch(clean, edits);
    }
    plan
}

#[test]
fn a_sequence_scores_what_its_tokens_score_one_after_the_other() {
    let (mut decoder, layers) = llama();
    let mut asked = plan(&[]);
    for run in 0..asked.runs.len() as u32 {
        asked.read(RunId(run), LAST);
    }
    asked.scoring.targets = vec![250];
    asked.scoring.sequences = SEQUENCES.iter().map(|s| Arc::from(*s)).collect();
    let (expanded, fold) = Expansion::new(&asked).parts();
    assert_eq!(expanded.runs.len(), 2 * asked.runs.len(), "7 30 serves all that begin with 7");
    let mut found = Vec::new();
    for (mode, budget) in [(Mode::Branching, 4096), (Mode::Branching, 60), (Mode::FullRecompute, 4096)] {
        let outcome = run(&mut decoder, layers, &expanded, budget, mode);
        let output = PlanOutput { scores: outcome.scores, ..PlanOutput::default() };
        found.push(fold.output(output).scores);
    }
    assert!(found.iter().all(|scores| *scores == found[0]), "neither mode nor chunks change a bit");

    // By hand: every prefix of a sequence as a prompt of its own.
    for (s, sequence) in SEQUENCES.iter().enumerate() {
        let mut sums = vec![0.0; asked.runs.len()];
        for (i, token) in sequence.iter().enumerate() {
            let mut one = plan(&sequence[..i]);
            for run in 0..one.runs.len() as u32 {
                one.read(RunId(run), LAST + i as u32);
            }
            one.scoring.targets = vec![*token];
            let scores = run(&mut decoder, layers, &one, 4096, Mode::Branching).scores;
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum += f64::from(score.logits[0]) - score.log_sum_exp;
            }
        }
        let scored: Vec<f64> = found[0].iter().map(|score| score.sequences[s]).collect();
        assert_eq!(scored, sums, "{sequence:?}");
        // The patches change it, that of the last layer too, through the first token alone.
        assert!(scored[2..].iter().all(|logprob| *logprob != scored[0]), "{sequence:?}: {scored:?}");
    }
}

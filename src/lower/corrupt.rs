//! Corruptions resolved: which tokens get which noise, or which other tokens.

use super::corrupted::{Corrupted, corrupted_positions};
use super::facts::Facts;
use super::layout::SigmaUsed;
use super::prepare::Prepared;
use super::prompts::TokenRun;
use super::replace_tokens::{self, Swap};
use super::sampling;
use super::sigma::sigma;
use crate::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::corruption::{Corruption, Draws, Method, Mode, Multivariate, Sigma, SigmaOf};
use crate::spec::experiment::Experiment;
use crate::spec::problem::{Problems, code};
use crate::spec::site::Site;

/// Fewer samples than this leave a standard error uncertain by more than a third of itself, `1 / sqrt(2 (n - 1))`.
const FEW_SAMPLES: u64 = 5;

/// How the corrupted runs are made, with indices.
pub(super) enum Corrupting {
    /// Noise on the embeddings at these positions.
    Noise {
        /// Ascending.
        positions: Vec<u32>,
        /// Its size, if the method has one.
        sigma: Option<SigmaUsed>,
    },
    /// Other tokens, a prompt per sample.
    Tokens(Vec<Swap>),
}

/// How many corrupted runs there are, if they are within the limit.
pub(super) fn samples(method: &Method, facts: &dyn Facts, out: &mut Problems) -> Option<u64> {
    let limit = facts.limits().samples;
    let samples = method.samples();
    let (at, fix) = match method {
        Method::ReplaceTokens(_) => ("with", "list fewer alternatives"),
        Method::Run { .. } => ("run", "list fewer runs"),
        _ => ("samples", "10 are usual"),
    };
    if samples > limit {
        let detail = format!("{samples} samples, the limit is {limit}");
        out.push(format!("/corrupt/{at}"), code::LIMIT, detail, format!("ask for at most {limit}; {fix}"));
        return None;
    }
    Some(samples)
}

/// The corruption with indices.
pub(super) fn resolve(
    corrupt: &Corruption,
    experiment: &Experiment,
    clean: &TokenRun,
    samples: u64,
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Corrupting> {
    let method = &corrupt.method;
    let Some(draws) = method.draws() else {
        return replace_tokens::resolve(corrupt, experiment, clean, facts, prepared, out)
            .map(Corrupting::Tokens);
    };
    let positions = corrupted_positions(&draws.positions, draws.include_bos, clean, prepared, out)?;
    if !clean.has_bos && positions.first() == Some(&0) {
        let detail = format!(
            "position 0 ({:?}) is corrupted, and no BOS stands before it: heads attend to the first token whatever it is",
            clean.tokens[0].text
        );
        let fix = match facts.words().bos() {
            Some(_) => "begin the prompt with other words, or put a BOS first by \"bos\": true",
            None => "begin the prompt with other words",
        };
        prepared.lints.warn("FIRST_TOKEN_CORRUPTED", "/corrupt/positions", detail, fix);
    }
    let config = facts.config();
    // A row of multivariate noise is made from one number per token of the vocabulary.
    let per_row = match method {
        Method::Multivariate(_) => config.vocab_size.max(config.hidden_size),
        _ => config.hidden_size,
    };
    let elements = samples.saturating_mul(positions.len() as u64).saturating_mul(per_row as u64);
    if elements > facts.limits().noise_elements {
        let detail = format!("{elements} random numbers, the limit is {}", facts.limits().noise_elements);
        out.push("/corrupt/samples", code::LIMIT, detail, "choose fewer samples or fewer positions");
        return None;
    }
    if samples == 1 {
        let detail = "one draw of noise has no error bar".to_owned();
        prepared.lints.warn("SINGLE_NOISE_SAMPLE", "/corrupt/samples", detail, "10 samples are usual");
    } else if samples < FEW_SAMPLES {
        let detail = format!("standard errors from {samples} samples are uncertain themselves");
        prepared.lints.info("SMALL_N", "/corrupt/samples", detail, "10 samples are usual");
    }
    let ids: Vec<u32> = positions.iter().map(|p| clean.ids[*p as usize]).collect();
    let used = match method {
        Method::Multivariate(Multivariate { k, .. }) => {
            // Only checked: this noise has a covariance, and no single deviation.
            let reference = Sigma::Relative { k: *k, of: SigmaOf::Vocab };
            sigma(reference, &ids, "/corrupt/k", facts, out)?;
            None
        }
        _ => Some(sigma(method.sigma().unwrap_or_default(), &ids, "/corrupt/sigma", facts, out)?),
    };
    Some(Corrupting::Noise { positions, sigma: used })
}

impl Corrupting {
    /// The noise used, if it has one deviation.
    pub(super) fn sigma(&self) -> Option<SigmaUsed> {
        match self {
            Self::Noise { sigma, .. } => *sigma,
            Self::Tokens(_) => None,
        }
    }

    /// Puts the corrupted runs into a plan. `roots`: each of the request's runs and its readout.
    pub(super) fn build(
        self,
        method: &Method,
        clean: &TokenRun,
        clean_root: RunId,
        roots: &[(RunId, usize)],
        plan: &mut Plan,
        facts: &dyn Facts,
    ) -> Corrupted {
        match self {
            Self::Noise { positions, sigma } => {
                let draws = method.draws().expect("BUG: only noise is resolved to noise");
                let std = sigma.map_or(1.0, |sigma| sigma.abs);
                let rows = sampling::rows(method, draws, &positions, std, facts);
                let runs = rows.into_iter().map(|rows| {
                    let edit = noise(draws, positions.clone(), Source::Constant(rows));
                    let run = plan.branch(clean_root, vec![edit]);
                    (run, plan.read(run, clean.read))
                });
                Corrupted { runs: runs.collect(), positions, replaced: Vec::new() }
            }
            Self::Tokens(swaps) => replace_tokens::build(swaps, clean, clean_root, roots, plan),
        }
    }
}

fn noise(draws: &Draws, positions: Vec<u32>, source: Source) -> Edit {
    let op = match draws.mode {
        Mode::Add => Op::add(source),
        Mode::Replace => Op::Replace(source),
    };
    let at = Address { layer: 0, site: Site::Embed };
    Edit::new(at, positions, op, EditGroup::Corruption)
}

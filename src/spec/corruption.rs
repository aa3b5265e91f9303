//! Corruption: how a run is derived from the clean one.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problems, code};
use super::read::Node;
use super::select::{Positions, Which};

/// How the corrupted run differs from the clean one.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Corruption {
    /// The run it is derived from.
    #[schema(required = false)]
    pub from: String,
    /// How.
    #[serde(flatten)]
    pub method: Method,
}

/// Ways to corrupt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Method {
    /// Gaussian noise added to the embeddings of some tokens (Meng et al. 2022).
    Gaussian(Gaussian),
    /// Another run of equal length takes its place (symmetric token replacement, Zhang and Nanda 2023).
    Run {
        /// That run.
        run: String,
    },
}

/// Noise on embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Gaussian {
    /// Tokens that get noise.
    #[schema(required = false)]
    pub positions: Positions,
    /// Its standard deviation.
    #[schema(required = false)]
    pub sigma: Sigma,
    /// Independent draws; each is one corrupted run shared by every cell.
    #[schema(required = false)]
    pub samples: u64,
    /// Seed.
    #[schema(required = false)]
    pub seed: u64,
    /// Generator.
    #[schema(required = false)]
    pub rng: Rng,
    /// Allows noise on BOS.
    #[schema(required = false)]
    pub include_bos: bool,
}

/// A standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Sigma {
    /// `k` times the standard deviation of embeddings.
    Relative {
        /// Multiple.
        k: f64,
        /// Of which embeddings.
        #[schema(required = false)]
        of: SigmaOf,
    },
    /// An absolute value.
    Absolute {
        /// The standard deviation itself.
        abs: f64,
    },
}

/// Whose embeddings' standard deviation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SigmaOf {
    /// The tokens that get noise: over all their embeddings' elements, with n - 1.
    Subjects,
    /// The whole embedding matrix.
    Vocab,
}

/// A generator of standard normal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rng {
    /// Philox4x32-10: a number depends on seed, sample, position and dimension only.
    Philox,
    /// `numpy.random.RandomState(seed).randn(samples, positions, hidden)`, bit for bit (ROME).
    NumpyLegacy,
}

impl Rng {
    /// Reads its name.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        node.choice(&[("philox", Self::Philox), ("numpy_legacy", Self::NumpyLegacy)], &[], out)
    }
}

impl Default for Gaussian {
    fn default() -> Self {
        Self {
            positions: Positions::Span { span: "subject".to_owned(), which: Which::All },
            sigma: Sigma::Relative { k: 3.0, of: SigmaOf::Subjects },
            samples: 10,
            seed: 1,
            rng: Rng::Philox,
            include_bos: false,
        }
    }
}

impl Sigma {
    /// Reads `{"k", "of"}` or `{"abs"}`.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["k", "of", "abs"], out)?;
        if let Some(abs) = fields.get("abs") {
            fields.exclude("abs", &["k", "of"], out);
            return Some(Self::Absolute { abs: abs.positive(out)? });
        }
        let k = fields.need("k", "write {\"k\": 3} or {\"abs\": 0.1}", out).and_then(|n| n.positive(out));
        let choices = [("subjects", SigmaOf::Subjects), ("vocab", SigmaOf::Vocab)];
        let of = fields.get("of").map_or(Some(SigmaOf::Subjects), |n| n.choice(&choices, &[], out));
        Some(Self::Relative { k: k?, of: of? })
    }
}

/// Reads the seed, which `NumPy`'s generator takes in 32 bits.
pub(super) fn read_seed(
    fields: &super::read::Fields<'_>,
    rng: Option<Rng>,
    out: &mut Problems,
) -> Option<u64> {
    let Some(node) = fields.get("seed") else { return Some(Gaussian::default().seed) };
    let seed = node.natural(0, out)?;
    if rng == Some(Rng::NumpyLegacy) && u32::try_from(seed).is_err() {
        let detail = format!("NumPy's generator takes seeds below 2^32, got {seed}");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "use a smaller seed, or rng philox");
        return None;
    }
    Some(seed)
}

impl Corruption {
    /// The default: 3 sigma of gaussian noise on the span `subject`, 10 samples.
    pub fn gaussian(from: &str) -> Self {
        Self { from: from.to_owned(), method: Method::Gaussian(Gaussian::default()) }
    }

    /// Reads the object; `from` is the run meant where none is named.
    pub fn read(node: &Node<'_>, from: &str, out: &mut Problems) -> Option<Self> {
        const GAUSSIAN: [&str; 9] =
            ["from", "method", "positions", "sigma", "mode", "samples", "seed", "rng", "include_bos"];
        const LATER: [&str; 5] = ["uniform", "student_t", "multivariate", "replace_tokens", "replace"];
        let is_run = node.value.get("method").is_some_and(|method| method == "run");
        let fields = node.fields(if is_run { &["from", "method", "run"] } else { &GAUSSIAN }, out)?;
        let from = fields.get("from").map_or(Some(from.to_owned()), |n| n.name(out));
        if is_run {
            let run = fields.need("run", "name the run that takes the clean run's place", out);
            return Some(Self { from: from?, method: Method::Run { run: run?.name(out)? } });
        }
        let method = fields
            .get("method")
            .map_or(Some(()), |n| n.choice(&[("gaussian", ()), ("run", ())], &LATER, out));
        let mode = fields.get("mode").map_or(Some(()), |n| n.choice(&[("add", ())], &["replace"], out));
        let default = Gaussian::default();
        let positions =
            fields.get("positions").map_or(Some(default.positions), |n| Positions::read(&n, false, out));
        let sigma = fields.get("sigma").map_or(Some(default.sigma), |n| Sigma::read(&n, out));
        let samples = fields.get("samples").map_or(Some(default.samples), |n| n.natural(1, out));
        let rng = fields.get("rng").map_or(Some(default.rng), |n| Rng::read(&n, out));
        let seed = read_seed(&fields, rng, out);
        let include_bos = fields.get("include_bos").map_or(Some(false), |n| n.flag(out));
        method.and(mode)?;
        let gaussian = Gaussian {
            positions: positions?,
            sigma: sigma?,
            samples: samples?,
            seed: seed?,
            rng: rng?,
            include_bos: include_bos?,
        };
        Some(Self { from: from?, method: Method::Gaussian(gaussian) })
    }
}

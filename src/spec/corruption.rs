//! Corruption: how runs are derived from the clean one.

mod reading;

pub use reading::{METHODS, MethodFacts};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::declare::{choices, declare};
use super::problem::{Problems, code};
use super::read::Node;
use super::select::{Positions, Which};

/// How the corrupted runs differ from the clean one.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Corruption {
    /// The run they are derived from.
    #[schema(required = false)]
    pub from: String,
    /// How.
    #[serde(flatten)]
    pub method: Method,
}

/// Ways to corrupt: noise on the embeddings of some tokens (Meng et al. 2022, and the alternatives that its authors
/// tried), or other tokens (Zhang and Nanda 2023 recommend these where a matched prompt exists: noise leaves the
/// distribution that the model was trained on, and the two can disagree).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Method {
    /// Independent gaussian numbers of standard deviation sigma.
    Gaussian(Spherical),
    /// Independent numbers, uniform in [-sigma, sigma): their standard deviation is sigma / sqrt(3).
    Uniform(Spherical),
    /// Gaussian rows stretched to Student's t distribution: heavier tails at the same standard deviation.
    StudentT(StudentT),
    /// Gaussian rows with the covariance of the embedding matrix.
    Multivariate(Multivariate),
    /// Other tokens in place of some (symmetric token replacement).
    ReplaceTokens(ReplaceTokens),
    /// Other runs of equal length take the clean run's place.
    Run {
        /// Their names; each is one sample.
        run: RunNames,
    },
}

declare! {
/// Noise whose numbers are independent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Spherical {
    /// Fields left out are those of a published procedure. Requests only: the echo has these fields in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Its size.
    #[schema(required = false)]
    pub sigma: Sigma,
    /// What all noise shares.
    flat pub draws: Draws,
}
}

declare! {
/// Noise from a multivariate t distribution: each row is the row of method `gaussian` (the same numbers for the same
/// seed) times `sqrt((df - 2) / u)`, where u is one draw from chi-square(df) per sample and position. Its variance
/// is sigma^2. (ROME stretches rows of method `multivariate` in this way, by draws of `RandomState(2)`.)
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StudentT {
    /// Degrees of freedom, 3 to 1000: the fewer, the heavier the tails; with two or fewer there is no variance.
    #[schema(required = false, minimum = 3, maximum = 1000)]
    pub df: u32,
    /// Its standard deviation.
    #[schema(required = false)]
    pub sigma: Sigma,
    /// What all noise shares.
    flat pub draws: Draws,
}
}

declare! {
/// Noise with the covariance of the embedding matrix E (all its rows, equally weighted): `k (E - mean)^T g / sqrt(V - 1)`
/// with V standard normal numbers g, which is exact. Its mean is zero; in mode `replace` the mean embedding is added.
/// (ROME estimates mean and covariance over tokens of wikitext, and adds the mean in both modes.)
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Multivariate {
    /// Factor; 1 gives the covariance itself.
    #[schema(required = false)]
    pub k: f64,
    /// What all noise shares.
    flat pub draws: Draws,
}
}

declare! {
/// What all noise shares. Each draw is shared by the corrupted baseline and all cells.
///
/// With rng `philox` a number depends on method, seed, sample, position and dimension only. Operation `noise` of
/// `POST /v1/patch` draws from other streams: the same seed gives other numbers there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Draws {
    /// Tokens that get noise.
    #[schema(required = false)]
    pub positions: Positions,
    /// Whether noise is added to their embeddings or takes their place.
    #[schema(required = false)]
    pub mode: Mode,
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
}

/// A published procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Meng et al. (2022): rng `numpy_legacy` with seed 1, 10 samples of 3 sigma of the subject's tokens, added.
    ///
    /// As there: the numbers, bit for bit, in the shape (samples, positions, hidden) with positions ascending; one draw
    /// for the baseline and every cell; means of probabilities; the windows' edges. Not as there: sigma is of this
    /// prompt's subject (of several prompts' with `cases`) and not of a thousand cases' (give `{"abs": …}` for that); noise is rounded to f32 before it is
    /// added, not after, which can change the last bit; mode `replace` also makes the corrupted baseline, which ROME's
    /// code forgets.
    Rome,
}

choices! {
/// What noise does to embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Mode {
    /// Embedding plus noise.
    Add = "add",
    /// Noise instead of the embedding: nothing of the token is left.
    Replace = "replace",
}
}

declare! {
/// Other tokens in place of some. Ids are exchanged in the tokenised prompt; nothing else changes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReplaceTokens {
    /// Tokens that are replaced.
    #[schema(required = false)]
    pub positions: Positions,
    /// What takes their place, as many tokens as are replaced; each alternative is one sample.
    pub with: Replacements,
    /// Allows the replacement of BOS.
    #[schema(required = false)]
    pub include_bos: bool,
}
}

/// One alternative or several; standard errors are over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Replacements {
    /// A text.
    One(String),
    /// Alternatives.
    List(Vec<Replacement>),
}

/// Tokens given as a text (with its leading space, if the replaced one has one) or as ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Replacement {
    /// A text: the tokens that it adds to the prompt before what it replaces.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// One run or several; standard errors are over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RunNames {
    /// One run.
    One(String),
    /// Several: effects depend on which corrupted prompt was chosen (Heimersheim and Nanda 2024).
    List(Vec<String>),
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

choices! {
/// Whose embeddings' standard deviation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SigmaOf {
    /// The tokens that get noise, as they stand in the prompt, with its spaces: over all their embeddings' elements, with n - 1. (ROME
    /// tokenises each subject alone and pools those of its 1,209 facts; of one prompt this is its rule, not its number.)
    Subjects = "subjects",
    /// The whole embedding matrix.
    Vocab = "vocab",
}
}

choices! {
/// A generator of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Rng {
    /// Philox4x32-10: a number depends on seed, sample, position and dimension only.
    Philox = "philox",
    /// `numpy.random.RandomState(seed)`, bit for bit, as ROME calls it: `.randn(samples, positions, hidden)` or
    /// `.uniform(-1, 1, (samples, positions, hidden))`, positions in ascending order, in f64. Other noise needs
    /// `philox`.
    NumpyLegacy = "numpy_legacy",
}
}

impl Rng {
    /// Reads its name.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        node.choice(&Self::ALL, &[], out)
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self {
            positions: Positions::Span { span: "subject".to_owned(), which: Which::All },
            mode: Mode::Add,
            samples: 10,
            seed: 1,
            rng: Rng::Philox,
            include_bos: false,
        }
    }
}

impl Default for Sigma {
    /// Three standard deviations of the subject's embeddings (Meng et al. 2022).
    fn default() -> Self {
        Self::Relative { k: 3.0, of: SigmaOf::Subjects }
    }
}

impl StudentT {
    /// Most degrees of freedom: beyond them the distribution is a gaussian for all that samples could show.
    pub const MOST_DF: u32 = 1000;
}

impl Method {
    /// What all noise shares, if this is noise.
    pub const fn draws(&self) -> Option<&Draws> {
        match self {
            Self::Gaussian(Spherical { draws, .. })
            | Self::Uniform(Spherical { draws, .. })
            | Self::StudentT(StudentT { draws, .. })
            | Self::Multivariate(Multivariate { draws, .. }) => Some(draws),
            Self::ReplaceTokens(_) | Self::Run { .. } => None,
        }
    }

    /// How many corrupted runs it makes.
    pub fn samples(&self) -> u64 {
        match self {
            Self::ReplaceTokens(replace) => replace.with.each().len() as u64,
            Self::Run { run } => run.each().len() as u64,
            noise => noise.draws().map_or(1, |draws| draws.samples),
        }
    }

    /// The size of noise that has one.
    pub const fn sigma(&self) -> Option<Sigma> {
        match self {
            Self::Gaussian(Spherical { sigma, .. })
            | Self::Uniform(Spherical { sigma, .. })
            | Self::StudentT(StudentT { sigma, .. }) => Some(*sigma),
            Self::Multivariate(_) | Self::ReplaceTokens(_) | Self::Run { .. } => None,
        }
    }

    /// The same, to be set.
    pub const fn sigma_mut(&mut self) -> Option<&mut Sigma> {
        match self {
            Self::Gaussian(Spherical { sigma, .. })
            | Self::Uniform(Spherical { sigma, .. })
            | Self::StudentT(StudentT { sigma, .. }) => Some(sigma),
            Self::Multivariate(_) | Self::ReplaceTokens(_) | Self::Run { .. } => None,
        }
    }

    /// Its name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gaussian(_) => "gaussian",
            Self::Uniform(_) => "uniform",
            Self::StudentT(_) => "student_t",
            Self::Multivariate(_) => "multivariate",
            Self::ReplaceTokens(_) => "replace_tokens",
            Self::Run { .. } => "run",
        }
    }
}

impl RunNames {
    /// The names, each with where it stands below `/corrupt`.
    pub fn each(&self) -> Vec<(&str, String)> {
        match self {
            Self::One(name) => vec![(name, "/run".to_owned())],
            Self::List(names) => {
                names.iter().enumerate().map(|(i, name)| (name.as_str(), format!("/run/{i}"))).collect()
            }
        }
    }
}

impl Replacements {
    /// The alternatives, each with where it stands below `/corrupt`.
    pub fn each(&self) -> Vec<(Replacement, String)> {
        match self {
            Self::One(text) => vec![(Replacement::Text(text.clone()), "/with".to_owned())],
            Self::List(list) => {
                list.iter().enumerate().map(|(i, one)| (one.clone(), format!("/with/{i}"))).collect()
            }
        }
    }
}

impl Corruption {
    /// The default: 3 sigma of gaussian noise on the span `subject`, 10 samples.
    pub fn gaussian(from: &str) -> Self {
        let noise = Spherical { preset: None, sigma: Sigma::default(), draws: Draws::default() };
        Self { from: from.to_owned(), method: Method::Gaussian(noise) }
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
        let of = fields.get("of").map_or(Some(SigmaOf::Subjects), |n| n.choice(&SigmaOf::ALL, &[], out));
        Some(Self::Relative { k: k?, of: of? })
    }
}

/// Reads the seed, which `NumPy`'s generator takes in 32 bits.
pub(super) fn read_seed(
    fields: &super::read::Fields<'_>,
    rng: Option<Rng>,
    out: &mut Problems,
) -> Option<u64> {
    let Some(node) = fields.get("seed") else { return Some(Draws::default().seed) };
    let seed = node.natural(0, out)?;
    if rng == Some(Rng::NumpyLegacy) && u32::try_from(seed).is_err() {
        let detail = format!("NumPy's generator takes seeds below 2^32, got {seed}");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "use a smaller seed, or rng philox");
        return None;
    }
    Some(seed)
}

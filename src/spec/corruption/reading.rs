//! Reads corruptions: each method has its own fields, and a field of another method is an unknown one.

use std::collections::HashSet;

use super::{
    Corruption, Draws, Method, Mode, Multivariate, Preset, ReplaceTokens, Replacement, Replacements, Rng,
    RunNames, Sigma, Spherical, StudentT, read_seed,
};
use crate::spec::declare::{Declared, names};
use crate::spec::problem::{Problems, code};
use crate::spec::read::{Fields, Node};
use crate::spec::select::Positions;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gaussian,
    Uniform,
    StudentT,
    Multivariate,
    ReplaceTokens,
    Run,
}

/// A method of corruption: its row in the one table from which reading, `/v1/capabilities` and documents follow.
#[derive(Debug, Clone, Copy)]
pub struct MethodFacts {
    kind: Kind,
    /// Its name on the wire.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [&'static str],
    /// Whether it is noise.
    pub is_noise: bool,
    /// Who used it.
    pub known_as: &'static str,
    /// What it does, for people.
    pub means: &'static str,
}

/// Every method.
pub const METHODS: [MethodFacts; 6] = [
    MethodFacts {
        kind: Kind::Gaussian,
        name: "gaussian",
        fields: names!(OF_ALL, Spherical::FIELDS),
        is_noise: true,
        known_as: "Meng et al. 2022 (`\"preset\": \"rome\"`)",
        means: "Independent gaussian numbers of standard deviation `sigma` on the embeddings.",
    },
    MethodFacts {
        kind: Kind::Uniform,
        name: "uniform",
        fields: names!(OF_ALL, Spherical::FIELDS),
        is_noise: true,
        known_as: "ROME's code",
        means: "Independent numbers, uniform in [-sigma, sigma).",
    },
    MethodFacts {
        kind: Kind::StudentT,
        name: "student_t",
        fields: names!(OF_ALL, StudentT::FIELDS),
        is_noise: true,
        known_as: "ROME's code, of multivariate rows",
        means: "Gaussian rows stretched to Student's t distribution: heavier tails at the same standard deviation.",
    },
    MethodFacts {
        kind: Kind::Multivariate,
        name: "multivariate",
        fields: names!(OF_ALL, Multivariate::FIELDS),
        is_noise: true,
        known_as: "ROME's code",
        means: "Gaussian rows with the covariance of the embedding matrix.",
    },
    MethodFacts {
        kind: Kind::ReplaceTokens,
        name: "replace_tokens",
        fields: names!(OF_ALL, ReplaceTokens::FIELDS),
        is_noise: false,
        known_as: "symmetric token replacement (Zhang and Nanda 2023)",
        means: "Other tokens in place of some.",
    },
    MethodFacts {
        kind: Kind::Run,
        name: "run",
        fields: names!(OF_ALL, &["run"]),
        is_noise: false,
        known_as: "counterfactual prompt",
        means: "Other runs of equal length take the clean run's place.",
    },
];

/// Fields of every method.
const OF_ALL: &[&str] = &["from", "method"];
/// Fields of one method or another.
const OF_ANY: &[&str] = names!(
    METHODS[0].fields,
    METHODS[1].fields,
    METHODS[2].fields,
    METHODS[3].fields,
    METHODS[4].fields,
    METHODS[5].fields
);

impl Corruption {
    /// Reads the object; `from` is the run meant where none is named. For one that can't be read stands noise that goes with
    /// every prompt, so that the rest of the request is still looked at.
    pub fn read(node: &Node<'_>, from: &str, out: &mut Problems) -> Self {
        Self::checked(node, from, out).unwrap_or_else(|| {
            let draws =
                Draws { positions: Positions::ALL, samples: 1, include_bos: true, ..Draws::default() };
            let noise = Spherical { preset: None, sigma: Sigma::default(), draws };
            Self { from: from.to_owned(), method: Method::Gaussian(noise) }
        })
    }

    fn checked(node: &Node<'_>, from: &str, out: &mut Problems) -> Option<Self> {
        let named = node.value.get("method").filter(|method| !method.is_null());
        let facts = match named {
            None => Some(&METHODS[0]),
            Some(word) => METHODS.iter().find(|facts| word == facts.name),
        };
        let Some(facts) = facts else {
            // Which fields belong to it isn't known: only the method is reported.
            let fields = node.fields(OF_ANY, out)?;
            let named = METHODS.map(|facts| (facts.name, facts.kind));
            fields.get("method").and_then(|n| n.choice(&named, &[], out));
            return None;
        };
        let fields = node.fields(facts.fields, out)?;
        let from = fields.get("from").map_or(Some(from.to_owned()), |n| n.name(out));
        let method = match facts.kind {
            Kind::Gaussian => read_spherical(&fields, out).map(Method::Gaussian),
            Kind::Uniform => read_spherical(&fields, out).map(Method::Uniform),
            Kind::StudentT => read_student_t(&fields, out).map(Method::StudentT),
            Kind::Multivariate => read_multivariate(&fields, out).map(Method::Multivariate),
            Kind::ReplaceTokens => read_replace_tokens(&fields, out).map(Method::ReplaceTokens),
            Kind::Run => read_runs(&fields, out).map(|run| Method::Run { run }),
        };
        Some(Self { from: from?, method: method? })
    }
}

/// What all noise shares; `rng` is the generator where none is named.
fn read_draws(fields: &Fields<'_>, rng: Rng, out: &mut Problems) -> Option<Draws> {
    let default = Draws { rng, ..Draws::default() };
    let positions = read_positions(fields, default.positions, out);
    let mode = fields.get("mode").map_or(Some(default.mode), |n| n.choice(&Mode::ALL, &[], out));
    let samples = fields.get("samples").map_or(Some(default.samples), |n| n.natural(1, out));
    let rng = fields.get("rng").map_or(Some(default.rng), |n| Rng::read(&n, out));
    let seed = read_seed(fields, rng, out);
    let include_bos = fields.get("include_bos").map_or(Some(false), |n| n.flag(out));
    Some(Draws {
        positions: positions?,
        mode: mode?,
        samples: samples?,
        seed: seed?,
        rng: rng?,
        include_bos: include_bos?,
    })
}

fn read_positions(fields: &Fields<'_>, default: Positions, out: &mut Problems) -> Option<Positions> {
    fields.get("positions").map_or(Some(default), |n| Positions::read(&n, false, out))
}

fn read_sigma(fields: &Fields<'_>, out: &mut Problems) -> Option<Sigma> {
    fields.get("sigma").map_or(Some(Sigma::default()), |n| Sigma::read(&n, out))
}

/// A preset changes what is meant by fields that are left out, and then is spelt out by them: requests that mean the
/// same have the same echo. Of ROME's procedure only the generator is not the default anyway.
fn read_spherical(fields: &Fields<'_>, out: &mut Problems) -> Option<Spherical> {
    let presets = [("rome", Preset::Rome)];
    let preset = fields.get("preset").map_or(Some(None), |n| n.choice(&presets, &[], out).map(Some));
    let rng = match preset.flatten() {
        Some(Preset::Rome) => Rng::NumpyLegacy,
        None => Rng::Philox,
    };
    let sigma = read_sigma(fields, out);
    let draws = read_draws(fields, rng, out);
    preset?;
    Some(Spherical { preset: None, sigma: sigma?, draws: draws? })
}

fn read_student_t(fields: &Fields<'_>, out: &mut Problems) -> Option<StudentT> {
    let df = match fields.get("df") {
        None => Some(3),
        Some(node) => node.count(3, out).and_then(|df| {
            if df > StudentT::MOST_DF {
                let detail = format!("{df} degrees of freedom, the limit is {}", StudentT::MOST_DF);
                out.push(&node.at, code::OUT_OF_RANGE, detail, "so many are a gaussian: use that method");
                return None;
            }
            Some(df)
        }),
    };
    let sigma = read_sigma(fields, out);
    let draws = read_draws(fields, Rng::Philox, out);
    check_philox(fields, draws.as_ref(), out)?;
    Some(StudentT { df: df?, sigma: sigma?, draws: draws? })
}

fn read_multivariate(fields: &Fields<'_>, out: &mut Problems) -> Option<Multivariate> {
    let k = fields.get("k").map_or(Some(1.0), |n| n.positive(out));
    let draws = read_draws(fields, Rng::Philox, out);
    check_philox(fields, draws.as_ref(), out)?;
    Some(Multivariate { k: k?, draws: draws? })
}

/// Reports a generator that this noise can't be drawn from.
fn check_philox(fields: &Fields<'_>, draws: Option<&Draws>, out: &mut Problems) -> Option<()> {
    if draws.is_some_and(|draws| draws.rng == Rng::NumpyLegacy) {
        let detail = "numpy_legacy draws methods gaussian and uniform only";
        out.push(fields.pointer("rng"), code::NOT_SUPPORTED, detail, "write philox, or leave out `rng`");
        return None;
    }
    Some(())
}

fn read_replace_tokens(fields: &Fields<'_>, out: &mut Problems) -> Option<ReplaceTokens> {
    const FIX: &str = "write the text that takes the tokens' place, with its leading space: \" Colosseum\"";
    let positions = read_positions(fields, Draws::default().positions, out);
    let with = fields.need("with", FIX, out).and_then(|node| match node.value {
        v if v.is_string() => node.name(out).map(Replacements::One),
        v if v.is_array() => node.all(out, read_replacement).map(Replacements::List),
        _ => {
            node.wrong("a text, or a list of alternatives: texts or lists of token ids", out);
            None
        }
    });
    let include_bos = fields.get("include_bos").map_or(Some(false), |n| n.flag(out));
    Some(ReplaceTokens { positions: positions?, with: with?, include_bos: include_bos? })
}

fn read_replacement(node: &Node<'_>, out: &mut Problems) -> Option<Replacement> {
    match node.value {
        v if v.is_string() => node.name(out).map(Replacement::Text),
        v if v.is_array() => node.all(out, Node::index).map(Replacement::Tokens),
        _ => {
            node.wrong("a text or a list of token ids", out);
            None
        }
    }
}

fn read_runs(fields: &Fields<'_>, out: &mut Problems) -> Option<RunNames> {
    let node = fields.need("run", "name the run that takes the clean run's place, or list several", out)?;
    if !node.value.is_array() {
        return node.name(out).map(RunNames::One);
    }
    let names = node.all(out, Node::name)?;
    let mut seen = HashSet::new();
    for (i, name) in names.iter().enumerate().filter(|(_, name)| !seen.insert(name.as_str())) {
        let detail = format!("{name:?} is listed twice");
        out.push(format!("{}/{i}", node.at), code::DUPLICATE, detail, "list each run once");
    }
    Some(RunNames::List(names))
}

//! Tokens that are drawn after a step of generation: from which rows, from what distribution, and what came of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What is drawn after a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepDraws {
    /// One for each text that goes on.
    pub draws: Vec<Draw>,
}

impl StepDraws {
    /// Rows whose logits are needed whole, in order.
    pub fn rows(&self) -> Vec<u32> {
        let rows = self.draws.iter().flat_map(|draw| draw.also.iter().copied().chain([draw.row]));
        rows.collect::<BTreeSet<u32>>().into_iter().collect()
    }
}

/// A token that is drawn from a row's distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draw {
    /// The row.
    pub row: u32,
    /// From what.
    pub choice: Choice,
    /// A number in `[0, 1)`: where in the distribution.
    pub u: f64,
    /// Rows whose logit of the token drawn is returned.
    pub also: Vec<u32>,
}

/// What distribution a token is drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What logits are divided by; 0: the largest is taken.
    pub temperature: f64,
    /// Only so many of the most probable tokens; 0: all.
    pub top_k: u32,
    /// Only the most probable tokens that have so much of the mass together; 1: all.
    pub top_p: f64,
    /// Only tokens of at least so much of the largest probability; 0: all.
    pub min_p: f64,
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f64)>,
}

impl Choice {
    /// The most probable token.
    pub const GREEDY: Choice =
        Choice { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, bias: Vec::new() };

    /// Whether the first token of a score is the one: nothing needs to be drawn.
    pub fn is_plain(&self) -> bool {
        self.temperature == 0.0 && self.bias.is_empty()
    }
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
    /// Share of the probability that temperature and filters left.
    pub mass_kept: f64,
    /// Its logit in each of [`Draw::also`].
    pub also: Vec<f32>,
}

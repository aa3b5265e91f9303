//! The rotary position embedding and its scalings, equal to those of `transformers`: inverse frequencies, one factor for
//! cosines and sines, and how long a sequence they are made for. Kernels see a table of cosines and sines, nothing else.

use serde::Serialize;
use utoipa::ToSchema;

use super::config::ConfigFault;

/// Rotary position embedding: base and scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Rope {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// How the frequencies are changed for sequences longer than those of the first training, if they are.
    pub scaling: Option<RopeScaling>,
}

/// `rope_type` of a configuration. `attention_factor` of the others is 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Low frequencies are divided, high ones kept: Llama 3.1 and later.
    Llama3(Llama3Scaling),
    /// All frequencies are divided.
    Linear(LinearScaling),
    /// The base grows with the length of the prompt.
    Dynamic(DynamicScaling),
    /// Low frequencies are divided, high ones kept, and attention is sharpened (Peng et al. 2023).
    Yarn(YarnScaling),
}

/// `rope_type: llama3`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Llama3Scaling {
    /// Factor by which low frequencies are divided.
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are scaled fully.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context length before scaling.
    pub original_max_positions: usize,
}

/// `rope_type: linear`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct LinearScaling {
    /// Factor by which frequencies are divided.
    pub factor: f64,
}

/// `rope_type: dynamic`, the NTK-aware scaling. Prompts of at most `original_max_positions` tokens are not scaled; the
/// frequencies of a longer one follow from its own length alone, whatever else is in its batch. (In `transformers` they are
/// those of the longest sequence of the batch, and of an earlier call; equal to ours is a prompt alone in a new model.)
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct DynamicScaling {
    /// How many times the original length is reached.
    pub factor: f64,
    /// Context length before scaling.
    pub original_max_positions: usize,
}

/// `rope_type: yarn`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct YarnScaling {
    /// Factor by which low frequencies are divided.
    pub factor: f64,
    /// Context length before scaling.
    pub original_max_positions: usize,
    /// What cosines and sines are multiplied by, so scores by its square.
    pub attention_factor: f64,
    /// Dimensions that turn more often than this within the original length are kept.
    pub beta_fast: f64,
    /// Dimensions that turn less often than this are scaled fully.
    pub beta_slow: f64,
    /// Whether the two bounds are rounded to whole dimensions.
    pub truncate: bool,
}

impl YarnScaling {
    /// `attention_factor` where a configuration leaves it open. `mscale`: `mscale` and `mscale_all_dim`, if both are stated.
    pub fn default_attention_factor(factor: f64, mscale: Option<(f64, f64)>) -> f64 {
        let of = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        mscale.map_or_else(|| of(1.0), |(one, all)| of(one) / of(all))
    }
}

impl Rope {
    /// A rotary embedding without scaling.
    pub const fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: None }
    }

    /// Checks that the numbers make an embedding of heads of this dimension.
    pub(super) fn check(&self, head_dim: usize) -> Result<(), ConfigFault> {
        let fault = |key, got: String, why| Err(ConfigFault { key, got, why });
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.theta) {
            return fault("rope_theta", self.theta.to_string(), "it must be positive");
        }
        let (factor, original) = match self.scaling {
            None => return Ok(()),
            Some(RopeScaling::Llama3(s)) => (s.factor, Some(s.original_max_positions)),
            Some(RopeScaling::Linear(s)) => (s.factor, None),
            Some(RopeScaling::Dynamic(s)) => (s.factor, Some(s.original_max_positions)),
            Some(RopeScaling::Yarn(s)) => (s.factor, Some(s.original_max_positions)),
        };
        if !positive(factor) {
            return fault("rope factor", factor.to_string(), "it must be positive");
        }
        if original == Some(0) {
            return fault("original_max_position_embeddings", "0".to_owned(), "it must be at least 1");
        }
        match self.scaling {
            Some(RopeScaling::Llama3(s))
                if !(s.factor >= 1.0
                    && s.low_freq_factor > 0.0
                    && s.high_freq_factor > s.low_freq_factor) =>
            {
                let got = format!("{} between {} and {}", s.factor, s.low_freq_factor, s.high_freq_factor);
                fault(
                    "rope factor",
                    got,
                    "factor must be at least 1 and low_freq_factor below high_freq_factor",
                )
            }
            Some(RopeScaling::Dynamic(_)) if head_dim <= 2 => fault(
                "head_dim",
                head_dim.to_string(),
                "dynamic scaling of RoPE needs at least two pairs of dimensions",
            ),
            Some(RopeScaling::Yarn(s)) if !positive(s.attention_factor) => {
                fault("attention_factor", s.attention_factor.to_string(), "it must be positive")
            }
            Some(RopeScaling::Yarn(s)) if !(positive(s.beta_slow) && positive(s.beta_fast)) => {
                let got = format!("{} with beta_slow = {}", s.beta_fast, s.beta_slow);
                fault("beta_fast", got, "both must be positive")
            }
            Some(RopeScaling::Yarn(_)) if self.theta <= 1.0 => {
                fault("rope_theta", self.theta.to_string(), "YaRN needs a base above 1")
            }
            _ => Ok(()),
        }
    }

    /// The longest sequence that the embedding is made for, where the configuration's own `max_position_embeddings` is
    /// `stated`. Configurations differ in whether that number is meant before or after scaling; as elsewhere, linear and
    /// dynamic scaling multiply it, and `YaRN` multiplies the original length if it states one.
    pub fn longest(&self, stated: usize) -> usize {
        let times = |length: usize, factor: f64| (length as f64 * factor).floor() as usize;
        match self.scaling {
            None | Some(RopeScaling::Llama3(_)) => stated,
            Some(RopeScaling::Linear(s)) => stated.max(times(stated, s.factor)),
            Some(RopeScaling::Dynamic(s)) => stated.max(times(s.original_max_positions, s.factor)),
            Some(RopeScaling::Yarn(s)) => stated.max(times(s.original_max_positions, s.factor)),
        }
    }

    /// Whether a prompt of this length has frequencies of its own.
    pub fn is_of_length(&self, length: usize) -> bool {
        matches!(self.scaling, Some(RopeScaling::Dynamic(s)) if length > s.original_max_positions)
    }

    /// What cosines and sines are multiplied by.
    pub const fn attention_factor(&self) -> f64 {
        match self.scaling {
            Some(RopeScaling::Yarn(s)) => s.attention_factor,
            _ => 1.0,
        }
    }

    /// Inverse frequencies for a prompt of `length` tokens, `[head_dim / 2]`, in f64.
    ///
    /// Source: `modeling_rope_utils` of `transformers` 5, which computes them in f32.
    pub fn inverse_frequencies(&self, head_dim: usize, length: usize) -> Vec<f64> {
        let dim = head_dim as f64;
        let series = |base: f64| {
            (0..head_dim / 2).map(move |i| base.powf(-((2 * i) as f64) / dim)).collect::<Vec<f64>>()
        };
        let mut frequencies = series(self.theta);
        match self.scaling {
            None => {}
            Some(RopeScaling::Llama3(s)) => frequencies.iter_mut().for_each(|f| *f = s.of(*f)),
            Some(RopeScaling::Linear(s)) => frequencies.iter_mut().for_each(|f| *f /= s.factor),
            Some(RopeScaling::Dynamic(s)) => {
                let grown = length.max(s.original_max_positions) as f64 / s.original_max_positions as f64;
                let base = self.theta * (s.factor * grown - (s.factor - 1.0)).powf(dim / (dim - 2.0));
                frequencies = series(base);
            }
            Some(RopeScaling::Yarn(s)) => {
                let (low, high) = s.bounds(self.theta, dim);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let scaled = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f / s.factor * scaled + *f * (1.0 - scaled);
                }
            }
        }
        frequencies
    }
}

impl Llama3Scaling {
    fn of(&self, frequency: f64) -> f64 {
        let original = self.original_max_positions as f64;
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / self.high_freq_factor {
            frequency
        } else if wavelength > original / self.low_freq_factor {
            frequency / self.factor
        } else {
            let smooth = (original / wavelength - self.low_freq_factor)
                / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

impl YarnScaling {
    /// The dimensions between which scaling sets in.
    fn bounds(&self, theta: f64, dim: f64) -> (f64, f64) {
        let original = self.original_max_positions as f64;
        let turning =
            |times: f64| dim * (original / (times * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // As there, so that they are never the same.
        if high - low == 0.0 { (low, high + 0.001) } else { (low, high) }
    }
}

#[cfg(test)]
mod tests;

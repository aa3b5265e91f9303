//! What is sent: prompts of the course notebook on puns, and requests as a user would write them.

use serde_json::{Value, json};

/// A prompt, its target and the words that get noise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) prompt: &'static str,
    pub(super) target: &'static str,
    pub(super) subject: &'static str,
}

pub(super) const PUN: &str = "Why do electricians make good swimmers? Because they know the";
pub(super) const LITERAL: &str = "The wires carry high voltage electrical";
pub(super) const RIVER: &str = "The river has a strong water";
pub(super) const CURRENT: &str = " current";
pub(super) const EIFFEL: Case =
    Case { prompt: "The Eiffel Tower is in the city of", target: " Paris", subject: "Eiffel Tower" };

/// Part 4 of the notebook; the first is the prompt of the other parts.
pub(super) const PUNS: [Case; 4] = [
    Case { prompt: PUN, target: CURRENT, subject: "electricians" },
    Case {
        prompt: "Why did the banker break up with his girlfriend? He lost",
        target: " interest",
        subject: "banker",
    },
    Case {
        prompt: "What did the ocean say to the beach? Nothing, it just",
        target: " waved",
        subject: "ocean",
    },
    Case {
        prompt: "Why don't scientists trust atoms? Because they make up",
        target: " everything",
        subject: "scientists",
    },
];

/// The metric whose pictures are drawn.
pub(super) const P: &str = "prob:target";
/// Its logarithm.
pub(super) const LOG_P: &str = "logprob:target";
/// The notebook's noise: absolute, on every token.
const NOTEBOOK_STD: f64 = 0.1;
/// Samples that a trace takes by itself.
pub(super) const USUAL_SAMPLES: u64 = 10;

/// Part 1: two named prompts.
pub(super) fn two_runs() -> Value {
    json!({"runs": {"pun": {"prompt": PUN}, "literal": {"prompt": LITERAL}},
           "targets": {"current": [CURRENT]},
           "metrics": ["prob:current", "logprob:current", "rank:current"], "read": {"topk": 3}})
}

/// Part 1: their residual stream after every layer.
pub(super) fn captures() -> Value {
    json!({"runs": {"pun": {"prompt": PUN}, "literal": {"prompt": LITERAL}},
           "read": {"capture": [{"site": "resid_post", "layers": "all", "positions": "all"}]}})
}

/// Part 2: the long form.
pub(super) fn pun_into_literal() -> Value {
    json!({"runs": {"pun": {"prompt": PUN}, "literal": {"prompt": LITERAL}},
           "base": "literal",
           "interventions": [{"site": "resid_post", "layers": "all", "positions": "last",
                              "source": {"run": "pun", "positions": "last"}}],
           "sweep": ["layers"], "target": CURRENT, "controls": ["self_patch"]})
}

/// Exercises 1 and 2: the short form of the same.
pub(super) fn crossed(base: &str, source: &str) -> Value {
    json!({"base": base, "source": source, "target": CURRENT})
}

/// Part 3, the notebook's way: absolute noise on every token, one sample, every fourth layer.
pub(super) fn notebook_trace() -> Value {
    json!({"prompt": PUN, "target": CURRENT, "layers": {"from": 0, "step": 4},
           "corrupt": {"positions": "all", "sigma": {"abs": NOTEBOOK_STD}, "samples": 1}})
}

/// The paper's way: 3 sigma of noise on the subject, ten samples, three arms; windows of 10 layers as far as there are
/// as many.
pub(super) fn trace(case: Case, depth: u64, samples: u64) -> Value {
    let mut body = json!({"prompt": case.prompt, "subject": case.subject, "target": case.target});
    if samples != USUAL_SAMPLES {
        body["corrupt"] = json!({"samples": samples});
    }
    body["arms"] = if depth >= 10 {
        json!(["hidden", "mlp", "attn"])
    } else {
        json!({"hidden": {"site": "resid_post"}, "mlp": {"site": "mlp_out", "window": depth},
               "attn": {"site": "attn_out", "window": depth}})
    };
    body
}

/// The same with pictures in the answer.
pub(super) fn with_plots(mut body: Value) -> Value {
    body["plot"] = json!(["svg", "png"]);
    body
}

/// Part 4, right: single positions and sublayers, layers as far apart as the notebook's. Half the samples: the spread of
/// four prompts is larger than that of the noise.
pub(super) fn sublayers(case: Case, depth: u64, samples: u64) -> Value {
    json!({"prompt": case.prompt, "subject": case.subject, "target": case.target,
           "corrupt": {"samples": samples.div_ceil(2)}, "layers": {"from": 0, "step": spaced(depth)},
           "arms": {"mlp": {"site": "mlp_out"}, "attn": {"site": "attn_out"}}})
}

/// A tenth of the depth: the notebook takes every 8th of 80 layers.
pub(super) fn spaced(depth: u64) -> u64 {
    ((depth + 5) / 10).max(1)
}

/// Part 5: layers 16, 32, 48, 64 of 80 at the same depths of this model.
pub(super) fn fifths(depth: u64) -> Vec<u64> {
    let mut layers: Vec<u64> = (1..=4).map(|i| (depth * i + 2) / 5).collect();
    layers.dedup();
    layers
}

/// Noise on the embeddings of the clean run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Noise {
    /// On every token, as the notebook has it.
    Everywhere,
    /// 3 sigma on the subject.
    Subject { seed: u64 },
}

/// A clean run with noise, alone: what a restored run is compared with.
pub(super) fn noised(case: Case, noise: Noise) -> Value {
    let noise = match noise {
        Noise::Everywhere => {
            json!({"site": "embed", "positions": "all", "op": "noise", "sigma": {"abs": NOTEBOOK_STD}})
        }
        Noise::Subject { seed } => {
            json!({"site": "embed", "positions": {"span": "subject"}, "op": "noise", "sigma": {"k": 3}, "seed": seed})
        }
    };
    json!({"runs": {"clean": {"prompt": case.prompt, "spans": {"subject": case.subject}}}, "base": "clean",
           "interventions": [noise], "target": case.target})
}

/// The same with clean values of a site written back at all positions of one layer at a time: of the residual stream a
/// tautology, which is shown here for one.
pub(super) fn restored(case: Case, noise: Noise, site: &str, layers: &Value) -> Value {
    let mut body = noised(case, noise);
    let restore = json!({"site": site, "layers": layers, "positions": "all", "op": "replace", "source": {"run": "clean"}});
    if let Some(list) = body["interventions"].as_array_mut() {
        list.push(restore);
    }
    body["sweep"] = json!(["layers"]);
    if site.starts_with("resid") {
        body["allow_trivial"] = json!(true);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_those_of_the_notebook_at_its_depth_and_scaled_at_others() {
        assert_eq!(fifths(80), [16, 32, 48, 64]);
        assert_eq!(fifths(30), [6, 12, 18, 24]);
        assert_eq!(fifths(4), [1, 2, 3]);
        assert_eq!((spaced(80), spaced(30), spaced(4)), (8, 3, 1));
    }
}

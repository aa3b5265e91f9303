//! Remarks on texts that were written: what they cannot show.

use super::{Collected, Collecting, Finish};
use crate::lower::generate::Generation;
use crate::lower::lint::{Lint, Lints};
use crate::spec::read::escape;

/// Nats a token by which a text may be less probable under the branch that is compared with before it is remarked.
const INCOHERENT: f64 = 1.5;
/// Share of the probability that filters leave without remark.
const KEPT: f64 = 0.9;
/// Lengths of a row by which it may be moved without remark.
const LARGE: f64 = 1.0;
/// Steps that are listed.
const LISTED: usize = 8;

/// What is to be said of the texts; `compute` is the number format they were computed in.
pub(super) fn of(all: &Collecting, generation: &Generation, compute: &str) -> Vec<Lint> {
    let mut lints = Lints::default();
    let sampling = &generation.spec.sampling;
    let greedy = sampling.temperature == 0.0 && sampling.logit_bias.is_empty();
    for (name, texts) in all.branches.iter().zip(&all.texts) {
        let at = generation.spec.restore(&format!("/branches/{}", escape(name)));
        for (sample, text) in texts.iter().enumerate() {
            let who = if texts.len() == 1 { name.clone() } else { format!("{name}, sample {sample}") };
            ends(text, &who, &at, &mut lints);
            if greedy {
                ties(text, &who, compute, &mut lints);
            }
            costs(text, &who, &at, &mut lints);
            writes(text, &who, &at, &mut lints);
        }
    }
    let kept = all.texts.iter().flatten().flat_map(|text| &text.tokens).map(|token| token.mass_kept);
    let least = kept.fold(1.0, f64::min);
    if least < KEPT {
        let detail = format!("the filters left {least:.2} of the probability at some step");
        let fix = "leave out top_k, top_p and min_p to draw from the model's own distribution";
        lints.info("FILTERED_DISTRIBUTION", "/sampling", detail, fix);
    }
    lints.0
}

/// How a text ended, and whether it was written to as was asked.
fn ends(text: &Collected, who: &str, at: &str, lints: &mut Lints) {
    let Some((finish, receipt)) = text.end else { return };
    let why = match finish {
        Finish::Context => Some("the model has no further position"),
        Finish::SourceEnded => Some("the branch that it reads had ended"),
        Finish::NotFinite => Some("its logits are not finite"),
        Finish::Lost => Some("the engine died of it"),
        Finish::Stop | Finish::StopString | Finish::Length => None,
    };
    if let Some(why) = why {
        let detail = format!("{who}: the text ended after {} tokens: {why}", text.tokens.len());
        lints.warn("STOPPED_EARLY", at, detail, "compare texts of equal length, or leave this one out");
    }
    if text.is_cut {
        let detail = format!("{who}: the text ends inside of a character");
        lints.info("TRUNCATED_CHARACTER", at, detail, "ask for more `max_tokens`, or read the token ids");
    }
    if receipt.cells < receipt.expected {
        let detail =
            format!("{who}: {} of {} rows were written at steps from 1 on", receipt.cells, receipt.expected);
        lints.error(
            "STEPS_NOT_WRITTEN",
            at,
            detail,
            "the text is not steered as was asked: report this request",
        );
    }
}

/// Steps at which rounding decides.
fn ties(text: &Collected, who: &str, compute: &str, lints: &mut Lints) {
    // Products of the usual sizes differ by so much between ways to add them up.
    let floor = if compute == "f32" { 1e-3 } else { 5e-2 };
    let near: Vec<String> =
        text.tokens.iter().filter(|token| token.margin < floor).map(|token| token.step.to_string()).collect();
    if near.is_empty() {
        return;
    }
    let more = if near.len() > LISTED { ", …" } else { "" };
    let shown = near[..near.len().min(LISTED)].join(", ");
    let detail = format!("{who}: the two best logits differ by less than {floor} at steps {shown}{more}");
    let fix = "compare texts up to that step, or by their log-probabilities";
    lints.info("NEAR_TIE", "/sampling", detail, fix);
}

/// How large what was written is beside what was there.
fn writes(text: &Collected, who: &str, at: &str, lints: &mut Lints) {
    let Some((_, receipt)) = text.end else { return };
    if let Some((far, step)) = receipt.farthest.filter(|(far, _)| *far > LARGE) {
        let detail = format!("{who}: a row was moved by {far:.1} times its own length, at step {step}");
        let fix = "write with less strength: what later layers read is mostly what was written";
        lints.warn("LARGE_WRITE", at, detail, fix);
    }
}

/// What a change costs in sense.
fn costs(text: &Collected, who: &str, at: &str, lints: &mut Lints) {
    let under: Option<Vec<f64>> =
        text.tokens.iter().map(|token| token.compare.map(|(logprob, _)| logprob)).collect();
    let Some(under) = under.filter(|under| !under.is_empty()) else { return };
    let n = under.len() as f64;
    let own = text.tokens.iter().map(|token| token.logprob).sum::<f64>() / n;
    let under = under.iter().sum::<f64>() / n;
    if own - under > INCOHERENT {
        let detail =
            format!("{who}: {under:.2} nats a token under the branch compared with, {own:.2} under its own");
        lints.warn("INCOHERENT", at, detail, "write with less strength, or at fewer layers or steps");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Receipt, Token};

    fn text(tokens: &[(f64, f64, f64)], end: (Finish, Receipt)) -> Collected {
        let token = |(step, (margin, logprob, under)): (usize, &(f64, f64, f64))| Token {
            branch: 0,
            sample: 0,
            step: step as u32,
            id: 1,
            text: String::new(),
            logprob: *logprob,
            mass_kept: 1.0,
            top: Vec::new(),
            margin: *margin,
            metrics: Vec::new(),
            compare: Some((*under, 0.1)),
            read: crate::generate::RowRead::default(),
        };
        Collected {
            text: String::new(),
            tokens: tokens.iter().enumerate().map(token).collect(),
            end: Some(end),
            is_cut: false,
        }
    }

    #[test]
    fn texts_are_remarked_for_what_they_cannot_show() {
        let whole = Receipt {
            steps: Some((0, 2)),
            expected: 3,
            cells: 3,
            max_abs_delta: 1.0,
            farthest: Some((0.5, 1)),
        };
        let codes = |text: &Collected| {
            let mut lints = Lints::default();
            ends(text, "a", "/branches/a", &mut lints);
            ties(text, "a", "f32", &mut lints);
            costs(text, "a", "/branches/a", &mut lints);
            writes(text, "a", "/branches/a", &mut lints);
            lints.0.iter().map(|lint| lint.code).collect::<Vec<_>>()
        };
        let fine = text(&[(1.0, -1.0, -1.2), (0.5, -1.0, -2.0)], (Finish::Length, whole));
        assert_eq!(codes(&fine), [""; 0]);
        let close = text(&[(1.0, -1.0, -1.2), (5e-4, -1.0, -2.0)], (Finish::Stop, whole));
        assert_eq!(codes(&close), ["NEAR_TIE"]);
        let babble = text(&[(1.0, -0.5, -3.0), (0.5, -0.5, -2.0)], (Finish::Length, whole));
        assert_eq!(codes(&babble), ["INCOHERENT"]);
        let large =
            text(&[(1.0, -1.0, -1.0)], (Finish::Length, Receipt { farthest: Some((1.5, 1)), ..whole }));
        assert_eq!(codes(&large), ["LARGE_WRITE"]);
        let missed = text(&[(1.0, -1.0, -1.0)], (Finish::SourceEnded, Receipt { cells: 2, ..whole }));
        assert_eq!(codes(&missed), ["STOPPED_EARLY", "STEPS_NOT_WRITTEN"]);
        assert_eq!(codes(&Collected { is_cut: true, ..fine }), ["TRUNCATED_CHARACTER"]);
    }
}

//! Response of `POST /v1/surprisal`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{
    Envelope, NullReason, Nulls, Provenance, RunTokens, TopToken, join_lints, run_tokens, top_tokens,
};
use super::files::{Arrays, NumberOf, metadata, part};
use super::numbers::{Numbers, OfMetric};
use super::phrases;
use super::pictures::{DOT, PictureRequestError};
use super::plates::{Picture, Pictures, Plate, Plot};
use super::render::{Rendered, rendered};
use super::respond::{Computed, Respond};
use super::rows::Rows;
use crate::draw::bars::{Bar, Bars, Series};
use crate::effect::nulls::Null;
use crate::effect::stats::finite;
use crate::export::csv::Column;
use crate::lower::facts::Facts;
use crate::lower::lint::{Lint, Lints};
use crate::lower::surprisal::SurprisalLayout;
use crate::plan::Score;
use crate::plan::output::Usage;
use crate::spec::named::Named;
use crate::spec::problem::Problems;
use crate::spec::read::escape;
use crate::spec::select::Which;
use crate::spec::surprisal::SurprisalSpec;
use crate::tokens::Token;

/// How likely the tokens of texts are.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SurprisalResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: SurprisalSpec,
    /// Each text.
    #[schema(value_type = std::collections::BTreeMap<String, ScoredText>)]
    pub runs: Named<ScoredText>,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// How likely a text is. Its first token follows nothing, and counts nowhere.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScoredText {
    /// Its tokens, and what the model would say after it.
    #[serde(flatten)]
    pub tokens: RunTokens,
    /// Each token from the second on.
    pub scores: Vec<TokenScore>,
    /// Natural log of the probability of all of them, after the first.
    pub logprob: Option<f64>,
    /// `exp(-logprob / n)` of n tokens; null where there is none.
    pub perplexity: Option<f64>,
    /// Natural logs of the probabilities of each span, after all that stands before it.
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub span_logprobs: Named<Option<f64>>,
}

/// A token, as the model expected it after all tokens before it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenScore {
    /// Its position.
    pub position: u32,
    /// Its text.
    pub token: String,
    /// Natural log of its probability.
    pub logprob: Option<f64>,
    /// The same in bits, with its sign turned.
    pub surprisal: Option<f64>,
    /// Its rank among all tokens, 1 = most probable; null where the logits are not finite.
    pub rank: Option<u32>,
    /// Entropy of the distribution that it was expected from, in nats.
    pub entropy: Option<f64>,
    /// The most probable tokens of that distribution, if asked for; null where the logits are not finite.
    pub topk: Option<Vec<TopToken>>,
}

impl Respond for SurprisalLayout {
    type Response = SurprisalResponse;

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<SurprisalResponse, Problems> {
        let (output, words, common) = (&computed.output, facts.words(), &self.common);
        let mut nulls = Nulls::default();
        nulls.runs(common, &output.scores);
        let runs = run_tokens(common, &output.scores, self.spec.topk, words).0.into_iter().zip(&self.scored);
        let runs = runs.map(|((name, tokens), (first, places))| {
            let at = format!("/runs/{}", escape(&name));
            let before = &output.scores[*first..*first + tokens.tokens.len() - 1];
            let tokens_after = tokens.tokens[1..].iter().zip(places);
            let scores =
                before.iter().zip(tokens_after).zip(1..).map(|((score, (token, place)), position)| {
                    TokenScore::new(score, *place, token, position, top_tokens(score, self.spec.topk, words))
                });
            let scores = scores.collect();
            let text = ScoredText::new(tokens, scores);
            text.nulls(&at, before, &mut nulls);
            (name, text)
        });
        let runs = runs.collect();
        Ok(SurprisalResponse {
            runs,
            nulls: nulls.0,
            id: envelope.id,
            model: envelope.model,
            request: self.spec.clone(),
            lints: join_lints(common, Lints::default(), &self.spec.experiment)?,
            usage: output.usage,
            provenance: Provenance { plan_sha256: common.plan_sha256.clone(), ..envelope.provenance },
        })
    }
}

impl TokenScore {
    /// `place`: of the token among those that every readout has logits of.
    fn new(score: &Score, place: usize, token: &Token, position: u32, topk: Option<Vec<TopToken>>) -> Self {
        let logit = score.logits.get(place).map(|logit| f64::from(*logit));
        let logprob = logit.and_then(|logit| finite(logit - score.log_sum_exp));
        Self {
            position,
            token: token.text.clone(),
            logprob,
            surprisal: logprob.map(|nats| 0.0 - nats / std::f64::consts::LN_2),
            rank: score.ranks.get(place).copied(),
            entropy: score.entropy.and_then(finite),
            topk,
        }
    }
}

impl ScoredText {
    fn new(tokens: RunTokens, scores: Vec<TokenScore>) -> Self {
        // The first token has no number.
        let of = |position: u32| scores.get((position as usize).checked_sub(1)?)?.logprob;
        let sum = |positions: &mut dyn Iterator<Item = u32>| positions.map(of).sum::<Option<f64>>();
        let logprob = sum(&mut (1..=scores.len() as u32)).filter(|_| !scores.is_empty());
        let perplexity = logprob.and_then(|sum| finite((-sum / scores.len() as f64).exp()));
        let span_logprobs = tokens.spans.map(|_, span| sum(&mut span.tokens(Which::All).into_iter()));
        Self { tokens, scores, logprob, perplexity, span_logprobs }
    }

    /// Why its numbers are null. `before`: the score from which each token was expected.
    fn nulls(&self, at: &str, before: &[Score], nulls: &mut Nulls) {
        for (i, (score, token)) in before.iter().zip(&self.scores).enumerate() {
            let why = score.missing.map_or(Null::Number, Null::Row);
            for (field, is_null) in [
                ("logprob", token.logprob.is_none()),
                ("surprisal", token.surprisal.is_none()),
                ("rank", token.rank.is_none()),
                ("entropy", token.entropy.is_none()),
                ("topk", token.topk.is_none()),
            ] {
                nulls.one(format!("{at}/scores/{i}/{field}"), is_null.then_some(why));
            }
        }
        let why = if self.scores.is_empty() {
            "there is one token, which follows nothing"
        } else {
            "not_finite: a token's log-probability is null"
        };
        nulls.one(format!("{at}/logprob"), self.logprob.is_none().then_some(why));
        nulls.one(format!("{at}/perplexity"), self.perplexity.is_none().then_some(why));
        for (name, logprob) in self.span_logprobs.iter() {
            let begins = self.tokens.spans.get(name).is_some_and(|span| span.tokens(Which::All).contains(&0));
            let why = if begins { "its first token follows nothing" } else { why };
            nulls.one(format!("{at}/span_logprobs/{}", escape(name)), logprob.is_none().then_some(why));
        }
    }
}

rendered! {
    SurprisalResponse: |_| Vec::new(), table, arrays, texts, plates;
}

/// Texts: a row for each token from the second on.
///
/// Columns: run, position, token, logprob, surprisal, rank, entropy.
fn table(response: &SurprisalResponse) -> Vec<Column> {
    let runs = response.runs.iter();
    let rows = runs.flat_map(|(name, text)| text.scores.iter().map(move |score| (name, score)));
    Rows::new(rows.collect())
        .text("run", |(name, _)| name)
        .int("position", |(_, score)| Some(score.position))
        .text("token", |(_, score)| &score.token)
        .float("logprob", |(_, score)| score.logprob)
        .float("surprisal", |(_, score)| score.surprisal)
        .int("rank", |(_, score)| score.rank)
        .float("entropy", |(_, score)| score.entropy)
        .columns
}

/// Arrays of texts: `{run}/` + `logprobs`, `surprisals`, `entropies`, of the tokens from the second on; `logprob`, `perplexity`, and the
/// tokens as in clean runs.
fn arrays(response: &SurprisalResponse) -> Vec<OfMetric> {
    let mut out = Arrays::default();
    for (name, text) in response.runs.iter() {
        let path = format!("{}/", part(name));
        out.tokens(&path, text.tokens.tokens.iter());
        let numbers: [NumberOf<TokenScore>; 3] = [
            ("logprobs", |score| score.logprob),
            ("surprisals", |score| score.surprisal),
            ("entropies", |score| score.entropy),
        ];
        for (array, of) in numbers {
            let values: Vec<_> = text.scores.iter().map(of).collect();
            out.numbers(format!("{path}{array}"), vec![values.len()], &values);
        }
        out.scalar(format!("{path}logprob"), text.logprob);
        out.scalar(format!("{path}perplexity"), text.perplexity);
    }
    out.into_list()
}

/// Metadata, by the same names as of every response; `token_texts` is a JSON object with a list for each run.
fn texts(response: &SurprisalResponse) -> BTreeMap<String, String> {
    let of = |tokens: &[Token]| tokens.iter().map(|token| token.text.clone()).collect::<Vec<_>>();
    let texts = response.runs.map(|_, text| of(&text.tokens.tokens));
    metadata(&response.id, &response.model, &response.request, &response.provenance, &response.lints, &texts)
}

/// The surprisal of each token, one picture a text.
fn plates(response: &SurprisalResponse) -> Result<Vec<Plate>, PictureRequestError> {
    let plates = response.runs.iter().filter(|(_, text)| !text.scores.is_empty()).map(|(name, text)| {
        let sums = [("log-probability", text.logprob), ("perplexity", text.perplexity)];
        let subtitle = std::iter::once(response.model.clone())
            .chain(sums.map(|(label, number)| phrases::number(label, number)))
            .chain(phrases::warnings(&response.lints));
        let bar = |score: &TokenScore| Bar {
            value: score.surprisal,
            not_finite: score.surprisal.is_none(),
            ..Bar::default()
        };
        let bars = Bars {
            title: format!("Surprisal of each token: {name}"),
            subtitle: subtitle.collect::<Vec<_>>().join(DOT),
            labels: text.scores.iter().map(|score| score.token.clone()).collect(),
            x_label: "token".to_owned(),
            value_label: "surprisal in bits".to_owned(),
            series: vec![Series { name: name.to_owned(), bars: text.scores.iter().map(bar).collect() }],
            ..Bars::default()
        };
        let (run, picture) = (Some(name.to_owned()), Picture::Bars(bars));
        Plate { kind: Plot::Bars, metric: None, run, group: None, parts: Vec::new(), picture }
    });
    let plates: Vec<Plate> = plates.collect();
    let none = || PictureRequestError::NoCells { of: "a text of one token".to_owned() };
    if plates.is_empty() { Err(none()) } else { Ok(plates) }
}

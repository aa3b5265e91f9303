//! What can be looked up: lints and what they mean, examples to begin with.

use axum::Json;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AppState, NoQuery, Problem};
use crate::lower::cure::CURABLE;
use crate::lower::lint::LINTS;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(lints)).routes(routes!(examples))
}

/// Every lint.
#[derive(Serialize, ToSchema)]
struct LintList {
    /// In the order of the alphabet.
    lints: Vec<LintMeaning>,
}

/// A lint and what it means.
#[derive(Serialize, ToSchema)]
struct LintMeaning {
    /// Stable name.
    code: &'static str,
    /// What it says. What was seen, and what to do, says each lint itself.
    means: &'static str,
    /// Whether it may have `apply`: the change of the request that cures it.
    cure: bool,
}

/// Lints
///
/// Every remark that an answer may have, and what it means.
#[utoipa::path(get, path = "/v1/lints", tag = "models",
    responses((status = 200, description = "The lints", body = LintList), Problem))]
async fn lints(_: NoQuery) -> Result<Json<LintList>, Problem> {
    let meaning = |lint: &crate::lower::lint::LintFacts| LintMeaning {
        code: lint.code,
        means: lint.means,
        cure: CURABLE.contains(&lint.code),
    };
    Ok(Json(LintList { lints: LINTS.iter().map(meaning).collect() }))
}

/// Requests to begin with.
#[derive(Serialize, ToSchema)]
struct ExampleList {
    /// What is simplest first.
    examples: Vec<Example>,
}

/// A request to begin with.
#[derive(Serialize, ToSchema)]
struct Example {
    /// Its name.
    title: &'static str,
    /// What it shows.
    shows: &'static str,
    /// Its kind: it is sent to `POST /v1/{kind}`.
    kind: &'static str,
    /// The request.
    #[schema(value_type = Object)]
    body: Value,
}

/// Examples
///
/// Requests to begin with, chosen for the default model. More are in `openapi/examples` of the source.
#[utoipa::path(get, path = "/v1/examples", tag = "models",
    responses((status = 200, description = "The examples", body = ExampleList), Problem))]
async fn examples(_: NoQuery) -> Result<Json<ExampleList>, Problem> {
    let trace = |title, shows, prompt, subject, target| Example {
        title,
        shows,
        kind: "trace",
        body: json!({"prompt": prompt, "subject": subject, "target": target}),
    };
    let examples = vec![
        trace(
            "Eiffel Tower (fact)",
            "where a fact is recalled: early at the subject's last token, late at the last token",
            "The Eiffel Tower is in the city of",
            "Eiffel Tower",
            " Paris",
        ),
        trace(
            "Electricians (pun)",
            "a joke that a small model does not get: lints say so",
            "Why do electricians make good swimmers? Because they know the",
            "electricians",
            " current",
        ),
        trace(
            "Banker (pun)",
            "the same of a word with two meanings",
            "Why did the banker break up with his girlfriend? He lost",
            "banker",
            " interest",
        ),
        Example {
            title: "Mary and John (IOI)",
            shows: "which of two names is the answer: a logit difference",
            kind: "trace",
            body: json!({
                "prompt": "When Mary and John went to the store, John gave a drink to",
                "subject": "Mary",
                "targets": {"target": [" Mary"], "foil": [" John"]},
                "metrics": ["prob:target", "logit_diff:target-foil"],
            }),
        },
        trace("Chinese", "characters of several tokens", "埃菲尔铁塔位于城市", "埃菲尔铁塔", "巴"),
        trace("Arabic", "a script from right to left", "يقع برج إيفل في مدينة", "برج إيفل", " ب"),
        Example {
            title: "Two contexts (patch)",
            shows: "at which layer the last state of the source decides the answer",
            kind: "patch",
            body: json!({
                "base": "The river has a strong water",
                "source": "Why do electricians make good swimmers? Because they know the",
                "target": " current",
            }),
        },
        Example {
            title: "A direction added (generate)",
            shows: "what the model writes when the state of another text is added, at three strengths",
            kind: "generate",
            body: json!({
                "runs": {
                    "base": {"prompt": "When I woke up this morning, I felt"},
                    "towards": {"prompt": "I am so happy today, everything is wonderful"},
                },
                "base": "base",
                "interventions": [{
                    "site": "resid_post", "layers": 14, "positions": {"steps": "all"}, "op": "add",
                    "source": {"run": "towards", "positions": "last"},
                }],
                "sweep": {"coefs": [0, 0.5, 1]},
                "compare_with": "coef=0",
                "max_tokens": 24,
            }),
        },
    ];
    Ok(Json(ExampleList { examples }))
}

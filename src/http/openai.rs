//! `OpenAI`'s routes for text, as its clients and tools of evaluation speak them: adapters of `POST /v1/generate`.

#![allow(
    clippy::needless_pass_by_value,
    reason = "errors and bodies are given away where they are turned into answers"
)]

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header;
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Schema};
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Posted;
use super::stream::{self, Sender};
use super::{AppState, Kind, Problem};
use crate::capacity::{Lane, Share};
use crate::keys::redacted;
use crate::result::generate::{BranchResult, GenerateResponse, TextResult, TokenResult};
use crate::service::{Generating, Refusal, Service};
use crate::spec::openai::{ChatBody, CompletionBody, Form, Translated};
use crate::spec::problem::Problems;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(completions)).routes(routes!(chat))
}

/// An answer of `OpenAI`'s form.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiCompletion)]
struct Completion {
    /// Id of this result.
    id: String,
    /// `text_completion` or `chat.completion`.
    object: &'static str,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// The model.
    model: String,
    /// The texts: of every branch its samples, in order. A completion has `text`, a chat `message`.
    #[schema(value_type = Vec<Object>)]
    choices: Vec<Value>,
    /// Numbers of tokens.
    #[schema(value_type = Object)]
    usage: Value,
    /// The whole answer of `POST /v1/generate`, if the request has `mediant`; else its lints, and fields that were not used.
    #[schema(value_type = Object)]
    mediant: Value,
}

/// An error of `OpenAI`'s form.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub(super) struct Failure {
    /// What is wrong: `message`, `type`, `param` (the field) and `code`; `errors` names every field.
    #[schema(value_type = Object)]
    error: Value,
}

impl IntoResponses for Failure {
    /// Those of every route with a body, in `OpenAI`'s form.
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        let mut responses = Problem::responses();
        for response in responses.values_mut() {
            if let RefOr::T(response) = response {
                let schema = RefOr::<Schema>::Ref(Ref::from_schema_name("OpenAiError"));
                response.content.clear();
                let content = ContentBuilder::new().schema(Some(schema)).build();
                response.content.insert("application/json".to_owned(), RefOr::T(content));
            }
        }
        responses
    }
}

/// Text completions in `OpenAI`'s form
///
/// `POST /v1/generate` for clients of `OpenAI`'s API. `mediant` holds interventions, branches and what is read; results come back under the
/// same name. What would change the answer and is not served is refused.
#[utoipa::path(post, path = "/v1/completions", tag = "experiments", request_body = CompletionBody,
    responses((status = 200, description = "The texts", content(
        (Completion = "application/json"), (String = "text/event-stream"))), Failure))]
async fn completions(state: State<AppState>, posted: Result<Posted, Problem>) -> Response {
    answer(Form::Completion, &state, posted).await
}

/// Chat completions in `OpenAI`'s form
///
/// `POST /v1/generate` with `messages`, for clients of `OpenAI`'s API. The model's own chat template makes the prompt.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "experiments", request_body = ChatBody,
    responses((status = 200, description = "The texts", content(
        (Completion = "application/json"), (String = "text/event-stream"))), Failure))]
async fn chat(state: State<AppState>, posted: Result<Posted, Problem>) -> Response {
    answer(Form::Chat, &state, posted).await
}

async fn answer(form: Form, state: &State<AppState>, posted: Result<Posted, Problem>) -> Response {
    let answered = async {
        let Posted { value, share, .. } = posted?;
        let service = state.service()?;
        let asked = translated(form, &value)?;
        let generating = begun(form, service, &asked, &share).await?;
        if asked.streams {
            return Ok(streamed(form, asked, generating, share));
        }
        whole(form, asked, generating, &share).await
    };
    answered.await.unwrap_or_else(|problem: Problem| failed(&problem))
}

/// The request in the words of `/v1/generate`.
fn translated(form: Form, body: &Value) -> Result<Translated, Problem> {
    // Numbers that every client of JSON reads exactly.
    let mut bytes = [0; 4];
    let chance = getrandom::fill(&mut bytes);
    chance.map_err(|error| Problem::new(Kind::Internal, format!("no random numbers: {error}")))?;
    let seed = u64::from(u32::from_le_bytes(bytes));
    let mut problems = Problems::default();
    let read = Translated::read(form, body, seed, &mut problems);
    Ok(problems.or(read)?)
}

async fn begun(
    form: Form,
    service: &Service,
    asked: &Translated,
    share: &Share,
) -> Result<Generating, Problem> {
    let generating = service.generate((asked.body.clone(), share)).await;
    generating.map_err(|mut refusal| {
        if let Refusal::Invalid(problems) = &mut refusal {
            for problem in &mut problems.0 {
                problem.pointer = Translated::restore(form, &problem.pointer);
            }
        }
        refusal.into()
    })
}

/// An error as `OpenAI`'s clients read it.
fn failure(problem: &Problem) -> Value {
    let first = problem.errors.first();
    let said = match first {
        Some(first) => format!("{}: {}; {}", first.pointer, first.detail, first.fix),
        None => problem.detail.clone(),
    };
    let status = problem.kind.status();
    let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
    let param = first.map(|first| first.pointer.trim_start_matches('/').replace('/', "."));
    let code = first.map_or(problem.kind.slug(), |first| first.code);
    let error =
        json!({"message": said, "type": kind, "param": param, "code": code, "errors": problem.errors});
    json!(Failure { error })
}

/// The same as text. A token that a client wrote in the wrong place is not repeated to it.
fn said(problem: &Problem) -> String {
    redacted(&failure(problem).to_string()).into_owned()
}

fn failed(problem: &Problem) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (problem.kind.status(), json, said(problem)).into_response();
    if let Some(seconds) = problem.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a text ended, in `OpenAI`'s words; `mediant` has our own.
fn finish(own: &str) -> &'static str {
    match own {
        "stop" | "stop_string" => "stop",
        _ => "length",
    }
}

async fn whole(
    form: Form,
    asked: Translated,
    mut generating: Generating,
    share: &Share,
) -> Result<Response, Problem> {
    while generating.next().await?.is_some() {}
    let put_together = move |_: &_| {
        let response = generating.response()?;
        Ok::<_, Refusal>(serde_json::to_vec(&completion(form, &asked, &response)))
    };
    let bytes = share.run(Lane::Finish, put_together).await?;
    let bytes = bytes.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    Ok(super::answer::tied(crate::result::render::Format::Json, bytes, share.clone()))
}

fn completion(form: Form, asked: &Translated, response: &GenerateResponse) -> Completion {
    let texts = response
        .branches
        .iter()
        .flat_map(|(_, branch)| branch.samples.iter().map(move |text| (branch, text)));
    let choices = texts
        .enumerate()
        .map(|(index, (branch, text))| choice(form, asked, response, index, (branch, text)))
        .collect();
    let written: usize =
        response.branches.iter().flat_map(|(_, b)| &b.samples).map(|text| text.tokens.len()).sum();
    Completion {
        id: response.id.clone(),
        object: if form == Form::Chat { "chat.completion" } else { "text_completion" },
        created: now(),
        model: response.model.clone(),
        choices,
        usage: usage(response.prompt.tokens.len(), written),
        mediant: extension(asked, response),
    }
}

fn usage(prompt: usize, written: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written})
}

/// What comes back under `mediant`.
fn extension(asked: &Translated, response: &GenerateResponse) -> Value {
    let mut own = if asked.extended { json!(response) } else { json!({"lints": response.lints}) };
    if !asked.unused.is_empty() {
        own["unused_fields"] = json!(asked.unused);
    }
    own
}

fn choice(
    form: Form,
    asked: &Translated,
    response: &GenerateResponse,
    index: usize,
    (branch, text): (&BranchResult, &TextResult),
) -> Value {
    let finish = finish(json!(text.finish).as_str().unwrap_or_default());
    match form {
        Form::Chat => {
            let content: Vec<Value> = text.tokens.iter().map(chat_logprob).collect();
            let logprobs = asked.logprobs.then(|| json!({"content": content, "refusal": null}));
            let message = json!({"role": "assistant", "content": text.text, "refusal": null});
            json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
        }
        Form::Completion => {
            let echoed = if asked.echo { response.prompt.text.as_str() } else { "" };
            let logprobs = asked.logprobs.then(|| {
                let mut all = Scored::default();
                if asked.echo {
                    all.prompt(&json!(response.prompt.tokens), &json!(branch.prompt_logprobs));
                }
                let written = json!(text.tokens);
                written.as_array().into_iter().flatten().for_each(|token| all.push(&token["text"], token));
                all.told()
            });
            let written = format!("{echoed}{}", text.text);
            json!({"index": index, "text": written, "logprobs": logprobs, "finish_reason": finish})
        }
    }
}

/// A token's log-probability in a chat.
fn chat_logprob(token: &TokenResult) -> Value {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let top: Vec<Value> = token
        .top
        .iter()
        .map(|top| json!({"token": top.text, "logprob": top.logprob, "bytes": bytes(&top.text)}))
        .collect();
    json!({"token": token.text, "logprob": token.logprob, "bytes": bytes(&token.text), "top_logprobs": top})
}

/// Log-probabilities of a completion.
#[derive(Default)]
struct Scored {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    end: usize,
}

impl Scored {
    /// Adds a token with what it scored.
    fn push(&mut self, text: &Value, scored: &Value) {
        let top = scored["top"].as_array().into_iter().flatten();
        let top = top.filter_map(|top| Some((top["text"].as_str()?.to_owned(), top["logprob"].clone())));
        self.tokens.push(text.clone());
        self.logprobs.push(scored["logprob"].clone());
        // Of the first token there is nothing to tell.
        self.top.push(if scored.is_null() { Value::Null } else { top.collect() });
        self.offsets.push(self.end);
        self.end += text.as_str().map_or(0, |text| text.chars().count());
    }

    /// Adds the prompt's tokens.
    fn prompt(&mut self, tokens: &Value, scores: &Value) {
        for (i, token) in tokens.as_array().into_iter().flatten().enumerate() {
            self.push(&token["text"], &scores[i]);
        }
    }

    fn told(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.logprobs,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}

fn streamed(form: Form, asked: Translated, generating: Generating, share: Share) -> Response {
    stream::answer(|sender| follow(form, asked, generating, share, sender))
}

/// Sends chunks until the texts have ended or the client is gone, and `[DONE]`.
async fn follow(form: Form, asked: Translated, mut generating: Generating, share: Share, sender: Sender) {
    let event = |data: String| Ok(sse::Event::default().data(data));
    let mut chunks =
        Chunks { form, asked, head: Value::Null, branches: Vec::new(), samples: 1, prompt: 0, written: 0 };
    loop {
        let next = tokio::select! {
            next = generating.next() => next,
            () = sender.closed() => return,
        };
        let told = match next {
            Ok(Some((name, data))) => chunks.of(name, &data),
            Ok(None) => break,
            Err(refusal) => {
                let _ = sender.send(event(said(&refusal.into()))).await;
                return;
            }
        };
        for chunk in told {
            if sender.send(event(chunk.to_string())).await.is_err() {
                return;
            }
        }
    }
    let last = match share.run(Lane::Finish, move |_: &_| chunks.last(generating)).await {
        Ok(last) => last,
        Err(refusal) => {
            let _ = sender.send(event(said(&refusal.into()))).await;
            return;
        }
    };
    for chunk in last {
        if sender.send(event(chunk.to_string())).await.is_err() {
            return;
        }
    }
    let _ = sender.send(event("[DONE]".to_owned())).await;
    drop(share);
}

/// Events of `/v1/generate` as chunks of `OpenAI`'s form.
struct Chunks {
    form: Form,
    asked: Translated,
    head: Value,
    branches: Vec<String>,
    samples: u64,
    prompt: usize,
    written: usize,
}

impl Chunks {
    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = self.head.clone();
        chunk["choices"] = choices;
        chunk
    }

    fn choice(&self, data: &Value, piece: Value, logprobs: Value, finish: Value) -> Value {
        let branch = self.branches.iter().position(|name| data["branch"] == **name).unwrap_or(0) as u64;
        let index = branch * self.samples + data["sample"].as_u64().unwrap_or(0);
        let name = if self.form == Form::Chat { "delta" } else { "text" };
        self.chunk(json!([{"index": index, name: piece, "logprobs": logprobs, "finish_reason": finish}]))
    }

    /// What is said of one text: a piece of it.
    fn piece(&self, text: &Value) -> Value {
        if self.form == Form::Chat { json!({"content": text}) } else { text.clone() }
    }

    fn of(&mut self, name: &str, data: &Value) -> Vec<Value> {
        match name {
            "start" => self.start(data),
            "token" => {
                self.written += 1;
                let logprobs = self.logprobs(data);
                vec![self.choice(data, self.piece(&data["text"]), logprobs, Value::Null)]
            }
            "done" => {
                let mut told = Vec::new();
                if data["text"].as_str().is_some_and(|text| !text.is_empty()) {
                    told.push(self.choice(data, self.piece(&data["text"]), Value::Null, Value::Null));
                }
                let end = if self.form == Form::Chat { json!({}) } else { json!("") };
                let finish = finish(data["finish"].as_str().unwrap_or_default());
                told.push(self.choice(data, end, Value::Null, json!(finish)));
                told
            }
            _ => Vec::new(),
        }
    }

    fn start(&mut self, data: &Value) -> Vec<Value> {
        let names = data["branches"].as_array().into_iter().flatten();
        self.branches = names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        self.samples = data["samples"].as_u64().unwrap_or(1);
        self.prompt = data["prompt"]["tokens"].as_array().map_or(0, Vec::len);
        let object = if self.form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
        self.head = json!({"id": data["id"], "object": object, "created": now(), "model": data["model"]});
        let text = match self.form {
            Form::Chat => json!({"role": "assistant", "content": ""}),
            Form::Completion if self.asked.echo => data["prompt"]["text"].clone(),
            Form::Completion => return Vec::new(),
        };
        let logprobs = |place: usize| {
            let mut prompt = Scored::default();
            prompt.prompt(&data["prompt"]["tokens"], &data["prompt_logprobs"][place]);
            if data["prompt_logprobs"].is_null() { Value::Null } else { prompt.told() }
        };
        let first = |(place, branch): (usize, &String), sample: u64| {
            let of = json!({"branch": branch, "sample": sample});
            self.choice(&of, text.clone(), logprobs(place), Value::Null)
        };
        let all = self.branches.iter().enumerate();
        let all = all.flat_map(|branch| (0..self.samples).map(move |sample| (branch, sample)));
        all.map(|(branch, sample)| first(branch, sample)).collect()
    }

    fn logprobs(&self, data: &Value) -> Value {
        if !self.asked.logprobs {
            return Value::Null;
        }
        let (text, logprob) = (&data["text"], &data["logprob"]);
        match self.form {
            Form::Chat => {
                json!({"content": [{"token": text, "logprob": logprob, "bytes": null, "top_logprobs": []}]})
            }
            Form::Completion => {
                json!({"tokens": [text], "token_logprobs": [logprob], "top_logprobs": [{}], "text_offset": []})
            }
        }
    }

    /// What comes behind the texts: numbers of tokens, and what is under `mediant`.
    fn last(self, generating: Generating) -> Result<Vec<Value>, Refusal> {
        let mut told = Vec::new();
        if self.asked.tells_usage || self.asked.extended {
            let mut chunk = self.chunk(json!([]));
            if self.asked.tells_usage {
                chunk["usage"] = usage(self.prompt, self.written);
            }
            if self.asked.extended {
                chunk["mediant"] = extension(&self.asked, &generating.response()?);
            }
            told.push(chunk);
        }
        Ok(told)
    }
}

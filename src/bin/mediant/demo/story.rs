//! The order of things: the server's start, the parts, what to do next.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::files::Files;
use super::requests::{self, EIFFEL};
use crate::screen::Screen;

/// Address that `serve` listens on unless told otherwise.
const SERVED_AT: &str = "http://127.0.0.1:8080";
/// A server that is not ready after this long says what it is doing.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests that take longer than this are announced.
const ANNOUNCED: f64 = 3.0;

/// Everything a part needs.
pub(super) struct Story {
    pub(super) client: Client,
    pub(super) screen: Screen,
    pub(super) files: Files,
    /// Layers of the model.
    pub(super) depth: u64,
    /// Noise samples of a trace.
    pub(super) samples: u64,
    /// Whether it has been said that the model hardly has the answer.
    pub(super) doubted: bool,
}

impl Story {
    pub(super) fn new(client: Client, screen: Screen, files: Files, samples: u64) -> Self {
        Self { client, screen, files, depth: 0, samples, doubted: false }
    }

    /// Everything, in order.
    pub(super) async fn tell(&mut self, reference: &str, serve: &str, keep: bool) -> anyhow::Result<()> {
        let started = Instant::now();
        self.start(reference).await?;
        self.clean_runs().await?;
        self.patches().await?;
        self.crossed_patches().await?;
        self.pun_traces().await?;
        self.average_effects().await?;
        self.mlp_against_attention().await?;
        self.confident_trace().await?;
        self.end(started, serve, keep)
    }

    async fn start(&mut self, reference: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        let address = self.client.address();
        self.screen.heading("mediant demo")?;
        self.screen
            .say(&format!("A server starts in this process at http://{address}; the demo is its client."))?;
        if tokio::time::timeout(PATIENCE, self.client.ready()).await.is_err() {
            self.screen.say(&format!(
                "Loading {reference}. The first time, it is fetched, which can take minutes …"
            ))?;
            self.client.ready().await;
        }
        let models = self.client.get("/v1/models").await?;
        let model = &models["models"][0];
        self.depth = model["config"]["num_layers"].as_u64().context("the model has no layers")?;
        let parameters = model["parameters"].as_f64().unwrap_or(0.0);
        self.screen.say(&format!(
            "Ready in {:.1} s: {}, {} layers, {} parameters, {} on {}, {:.0} GFLOP/s.",
            started.elapsed().as_secs_f64(),
            model["id"].as_str().unwrap_or_default(),
            self.depth,
            thousands(parameters),
            model["dtype"].as_str().unwrap_or_default(),
            model["device"].as_str().unwrap_or_default(),
            model["flops_per_second"].as_f64().unwrap_or(0.0) / 1e9,
        ))?;
        Ok(())
    }

    /// Shows a request and sends it.
    pub(super) async fn ask(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.screen.request(path, body)?;
        Ok(self.client.post(path, body).await?.body)
    }

    /// The same for a trace that takes a while: says how long the server's dry run expects it to take.
    pub(super) async fn ask_patiently(&mut self, body: &Value) -> anyhow::Result<Answer<Value>> {
        self.screen.request("/v1/trace", body)?;
        let plan = self.client.post("/v1/plan", &json!({"trace": body})).await?.body;
        let seconds = plan["cost"]["seconds"].as_f64().unwrap_or(0.0);
        if seconds >= ANNOUNCED {
            let runs = plan["runs"].as_u64().unwrap_or(0);
            self.screen.say(&format!("{runs} runs, about {seconds:.0} s by /v1/plan …"))?;
        }
        Ok(self.client.post("/v1/trace", body).await?)
    }

    fn end(&mut self, started: Instant, serve: &str, keep: bool) -> anyhow::Result<()> {
        let body = requests::trace(EIFFEL, self.depth, self.samples);
        self.screen.heading("Next")?;
        let folder = self.files.folder();
        self.screen.say(&format!(
            "Done in {:.0} s. Pictures and numbers are in {folder}. To keep a server running:",
            started.elapsed().as_secs_f64()
        ))?;
        self.screen.line(&format!("\n    {serve}\n"))?;
        self.screen.say("and from another terminal, the last trace again, as a picture:")?;
        let url = if keep { format!("http://{}", self.client.address()) } else { SERVED_AT.to_owned() };
        self.screen.line(&format!(
            "\n    curl -s '{url}/v1/trace?format=png' -H 'content-type: application/json' -o eiffel.png \\\n      -d '{body}'\n"
        ))?;
        self.screen.say("?format= takes json, csv, npz, safetensors, svg and png; /v1/openapi.json describes every field.")?;
        if keep {
            self.screen.gap()?;
            self.screen
                .say(&format!("Still serving at http://{}; ctrl-c stops it.", self.client.address()))?;
        }
        Ok(())
    }
}

/// A count of parameters as people say it: `135 M`.
fn thousands(n: f64) -> String {
    let (unit, name) = match n {
        n if n >= 1e9 => (1e9, " G"),
        n if n >= 1e6 => (1e6, " M"),
        _ => (1e3, " k"),
    };
    format!("{:.0}{name}", n / unit)
}

//! The parts: what is asked, and what is shown of the answers.

use serde_json::Value;

use super::requests::{self, CURRENT, Case, EIFFEL, LITERAL, P, PUN, PUNS, RIVER};
use super::story::Story;
use crate::screen::Align::{Left, Right};
use crate::screen::map;
use crate::screen::numbers::{flat, items, short, signed};

/// Below this the model hardly has the answer that a trace asks about.
const UNSURE: f64 = 0.05;

impl Story {
    pub(super) async fn clean_runs(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 1 · Two clean runs")?;
        self.screen.say("The same word is the answer to a pun and to a literal sentence.")?;
        let answer = self.ask("/v1/run", &requests::two_runs()).await?;
        let row = |name: &str, prompt: &str| {
            let run = &answer["runs"][name];
            let metric = |key: &str| run["metrics"][key].as_f64();
            let top =
                items(&run["topk"]).iter().map(|t| format!("{} {}", t["text"], short(t["prob"].as_f64())));
            let top: Vec<String> = top.collect();
            vec![
                name.to_owned(),
                items(&run["tokens"]).len().to_string(),
                short(metric("prob:current")),
                short(metric("rank:current")),
                top.join("  "),
                prompt.to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> =
            [("pun", PUN), ("literal", LITERAL)].map(|(name, prompt)| row(name, prompt)).into();
        for row in &rows {
            self.screen.say(&format!("{}: {:?}", row[0], row[5]))?;
        }
        self.screen.gap()?;
        let head = [
            ("run", Left),
            ("tokens", Right),
            ("P(\" current\")", Right),
            ("rank", Right),
            ("most probable", Left),
        ];
        let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row[..5].to_vec()).collect();
        self.screen.table(&head, &rows)?;
        self.screen.lints(&[&answer])?;
        let body = requests::captures();
        self.screen.request("/v1/run?format=npz", &body)?;
        let npz = self.client.post_for_bytes("/v1/run?format=npz", &body).await?.body;
        self.screen.say("Activations after every layer, as NumPy arrays.")?;
        let file = self.files.write("part1-activations.npz", &npz)?;
        self.screen.wrote(&[file])?;
        Ok(())
    }

    pub(super) async fn patches(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 2 · The pun's activations in the literal sentence")?;
        self.screen.say(
            "At one layer after the other, the last token's residual stream is replaced by the pun's.",
        )?;
        let body = requests::pun_into_literal();
        let answer = self.ask("/v1/patch", &body).await?;
        let baseline = |run: &str| short(answer["baselines"][run][P].as_f64());
        let (literal, pun) = (baseline("literal"), baseline("pun"));
        self.screen.say(&format!("P(\" current\") unpatched: {literal} literal, {pun} pun."))?;
        self.screen.gap()?;
        let (values, effects) = (flat(&answer["values"][P]), flat(&answer["effects"][P]));
        let normalised = flat(&answer["normalised"][P]);
        let rows: Vec<Vec<String>> = self
            .shown_layers(5)
            .into_iter()
            .map(|layer| {
                let at = |list: &[Option<f64>]| list.get(layer).copied().flatten();
                let top = &answer["topk"][layer][0]["text"];
                vec![
                    layer.to_string(),
                    short(at(&values)),
                    signed(at(&effects)),
                    short(at(&normalised)),
                    top.to_string(),
                ]
            })
            .collect();
        let head = [
            ("layer", Right),
            ("P(\" current\")", Right),
            ("effect", Right),
            ("0 literal … 1 pun", Right),
            ("most probable", Left),
        ];
        self.screen.table(&head, &rows)?;
        let control = answer["controls"]["self_patch"]["max_abs_effect"].as_f64();
        self.screen.gap()?;
        self.screen.say(&format!(
            "Control: every layer patched with its own values changes P by at most {}.",
            short(control)
        ))?;
        self.screen.lints(&[&answer])?;
        let mut files = Vec::new();
        for format in ["svg", "png"] {
            let picture =
                self.client.post_for_bytes(&format!("/v1/patch?format={format}"), &body).await?.body;
            files.push(self.files.write(&format!("part2-pun-into-literal.{format}"), &picture)?);
        }
        self.screen.wrote(&files)?;
        Ok(())
    }

    /// Every `step`-th layer and the last.
    fn shown_layers(&self, step: usize) -> Vec<usize> {
        let depth = self.depth as usize;
        let mut layers: Vec<usize> = (0..depth).step_by(if depth > 12 { step } else { 1 }).collect();
        if layers.last() != Some(&(depth - 1)) {
            layers.push(depth - 1);
        }
        layers
    }

    pub(super) async fn crossed_patches(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Exercises 1 and 2 · Both directions, and the layer that flips the answer")?;
        let into = self.ask("/v1/patch", &requests::crossed(RIVER, PUN)).await?;
        let back = self.ask("/v1/patch", &requests::crossed(PUN, RIVER)).await?;
        let (p_into, p_back) = (flat(&into["values"][P]), flat(&back["values"][P]));
        let rows: Vec<Vec<String>> = self
            .shown_layers(5)
            .into_iter()
            .map(|layer| {
                let top = |answer: &Value| answer["topk"][layer][0]["text"].to_string();
                let at = |list: &[Option<f64>]| short(list.get(layer).copied().flatten());
                vec![layer.to_string(), at(&p_into), top(&into), at(&p_back), top(&back)]
            })
            .collect();
        let head = [
            ("layer", Right),
            ("pun → river: P(\" current\")", Right),
            ("top", Left),
            ("river → pun: P(\" current\")", Right),
            ("top", Left),
        ];
        self.screen.table(&head, &rows)?;
        self.screen.gap()?;
        for (name, answer) in [("pun → river", &into), ("river → pun", &back)] {
            let top = |run: &str| answer["runs"][run]["topk"][0]["text"].to_string();
            let (base, source) = (top("base"), top("source"));
            let goal = &answer["runs"]["source"]["topk"][0]["text"];
            let flip = items(&answer["topk"]).iter().position(|top| &top[0]["text"] == goal);
            let text = match flip {
                _ if base == source => format!("{name}: both predict {base}, so nothing can flip."),
                Some(layer) => format!("{name}: {base} becomes {source} from layer {layer}."),
                None => format!("{name}: no layer turns {base} into {source}."),
            };
            self.screen.say(&text)?;
        }
        self.screen.lints(&[&into, &back])?;
        Ok(())
    }

    pub(super) async fn pun_traces(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 3 · Causal trace of the pun")?;
        self.screen.say(
            "First with the notebook's settings: noise on every token, one sample, every fourth layer.",
        )?;
        let answer = self.ask("/v1/trace", &requests::notebook_trace()).await?;
        self.traced(&answer, CURRENT)?;
        let map = map::of_arm(&answer, "hidden", P, "P(\" current\")");
        self.screen.heatmap(&map)?;
        self.screen.lints(&[&answer])?;
        self.screen.gap()?;
        self.screen.say("Now as in the ROME paper: noise of 3 sigma on the subject alone, several samples; single positions of the residual stream, and windows of MLPs and of attentions.")?;
        let pun = PUNS[0];
        let answer = self
            .ask_patiently(&requests::with_plots(requests::trace(pun, self.depth, self.samples)))
            .await?
            .body;
        self.traced(&answer, CURRENT)?;
        let map = map::of_arm(&answer, "hidden", P, "P(\" current\")");
        self.screen.heatmap(&map)?;
        self.screen.lints(&[&answer])?;
        let files = self.files.trace("part3-pun-trace", &answer)?;
        self.screen.wrote(&files)?;
        Ok(())
    }

    /// Baselines of a trace in words, with what they mean for the map.
    fn traced(&mut self, answer: &Value, target: &str) -> anyhow::Result<()> {
        let clean = answer["baselines"]["clean"][P].as_f64();
        let corrupted = &answer["baselines"]["corrupted"][P];
        let (mean, se) = (corrupted["mean"].as_f64(), corrupted["se"].as_f64());
        let se = se.map_or_else(String::new, |se| format!(" ± {}", short(Some(se))));
        self.screen.say(&format!("P({target:?}): {} clean, {}{se} corrupted.", short(clean), short(mean)))?;
        if clean.is_some_and(|p| p < UNSURE) && !self.doubted {
            self.doubted = true;
            self.screen.say(
                "This model hardly has the answer, so there is little to restore, and noise can even raise it. \
                 The lints say so; the map keeps every sign on its own scale and clamps nothing to a \"recovery\" \
                 between 0 and 1.",
            )?;
        }
        if mean >= clean {
            self.screen.say(
                "The noise raises P here: negative cells are those whose clean values bring it down again.",
            )?;
        }
        Ok(())
    }

    pub(super) async fn confident_trace(&mut self) -> anyhow::Result<()> {
        let Case { prompt, target, subject } = EIFFEL;
        self.screen.heading("A fact that the model knows")?;
        self.screen.say(&format!("{prompt:?}, noise of 3 sigma on {subject:?}."))?;
        let body = requests::with_plots(requests::trace(EIFFEL, self.depth, self.samples));
        let answer = self.ask_patiently(&body).await?;
        let (took, answer) = (answer.took, answer.body);
        self.traced(&answer, target)?;
        let what = format!("P({target:?})");
        self.screen.heatmap(&map::of_arm(&answer, "hidden", P, &what))?;
        self.screen.gap()?;
        let rows: Vec<Vec<String>> = ["hidden", "mlp", "attn"]
            .iter()
            .map(|arm| {
                let peak = &answer["arms"][arm]["argmax"][P];
                let position = peak["position"].as_u64().unwrap_or(0) as usize;
                vec![
                    (*arm).to_owned(),
                    peak["layer"].to_string(),
                    answer["tokens"][position]["text"].to_string(),
                    signed(peak["effect"].as_f64()),
                ]
            })
            .collect();
        let head = [("arm", Left), ("strongest at layer", Right), ("token", Left), ("effect", Right)];
        self.screen.table(&head, &rows)?;
        self.screen.lints(&[&answer])?;
        let per_arm = |arm: &Value| {
            items(&arm["axes"]).iter().map(|axis| items(&axis["values"]).len()).product::<usize>()
        };
        let grid: usize = answer["arms"].as_object().into_iter().flatten().map(|(_, arm)| per_arm(arm)).sum();
        let samples = answer["samples"].as_u64().unwrap_or(0) as usize;
        let seconds = answer["usage"]["seconds"].as_f64().unwrap_or(f64::NAN);
        self.screen.gap()?;
        self.screen.say(&format!(
            "{} cells ({grid} of the maps x {samples} samples) in {seconds:.1} s: {:.0} cells/s, {:.1} s with pictures over HTTP.",
            grid * samples,
            (grid * samples) as f64 / seconds,
            took.as_secs_f64()
        ))?;
        let files = self.files.trace("eiffel-trace", &answer)?;
        self.screen.wrote(&files)?;
        Ok(())
    }
}

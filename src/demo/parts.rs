//! The parts: what is asked, and what is shown of the answers.

use serde_json::{Value, json};

use super::map;
use super::numbers::{Mean, flat, items, short, signed, with_error};
use super::requests::{self, CURRENT, Case, EIFFEL, LITERAL, LOG_P, Noise, P, PUN, PUNS, RIVER, SEEDS};
use super::show::Align::{Left, Right};
use super::story::Story;
use crate::result::bars::{Bar, Bars, Baseline, Series};

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
        self.screen.line("")?;
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
        self.screen.line("")?;
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
        self.screen.line("")?;
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
        self.screen.line("")?;
        for (name, answer) in [("pun → river", &into), ("river → pun", &back)] {
            let top = |run: &str| answer["runs"][run]["topk"][0]["text"].to_string();
            let (base, source) = (top("base"), top("source"));
            let flip = items(&answer["topk"]).iter().position(|top| top[0]["text"].to_string() == source);
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
        self.screen.line("")?;
        self.screen.say("Now as in the ROME paper: noise of 3 sigma on the subject alone, ten samples; single positions of the residual stream, and windows of MLPs and of attentions.")?;
        let pun = PUNS[0];
        let answer = self.ask_patiently(&requests::with_plots(requests::trace(pun, self.depth))).await?.body;
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
        if clean.is_some_and(|p| p < UNSURE) {
            self.screen.say(&format!(
                "This small model hardly has the answer, so there is little to restore, and noise can even raise it. \
                 The map below keeps every sign and its own scale; nothing is clamped to \"recovery\" between 0 and 1."
            ))?;
        }
        Ok(())
    }

    pub(super) async fn average_effects(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 4 · Average indirect effect over four puns")?;
        self.screen.say("The notebook restores a whole layer, all positions at once:")?;
        let layers = json!({"from": 0, "step": requests::spaced(self.depth)});
        let restored = |case| requests::restored(case, Noise::Everywhere, "resid_post", &layers);
        self.screen.request("/v1/patch", &restored(PUNS[0]))?;
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for case in PUNS {
            let noised =
                self.client.post("/v1/patch", &requests::noised(case, Noise::Everywhere)).await?.body;
            let answer = self.client.post("/v1/patch", &restored(case)).await?.body;
            let clean = answer["baselines"]["clean"][P].as_f64();
            let values = flat(&answer["values"][P]);
            let same = values.iter().filter(|value| **value == clean).count();
            rows.push(vec![
                format!("{:?}", case.target),
                short(clean),
                short(noised["values"][P].as_f64()),
                format!("{same} of {}", values.len()),
                case.prompt.to_owned(),
            ]);
            answers.push(answer);
        }
        let head = [
            ("target", Left),
            ("P clean", Right),
            ("P with noise", Right),
            ("layers that give the clean P to the bit", Right),
            ("prompt", Left),
        ];
        self.screen.table(&head, &rows)?;
        self.screen.lints(&answers.iter().collect::<Vec<_>>())?;
        self.screen.line("")?;
        self.screen.say("So every layer scores the whole difference: the average ranks nothing. Restoring one sublayer's output at one position at a time does:")?;
        self.sublayer_effects().await
    }

    async fn sublayer_effects(&mut self) -> anyhow::Result<()> {
        self.screen.request("/v1/trace", &requests::sublayers(PUNS[0], self.depth))?;
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for case in PUNS {
            let answer = self.client.post("/v1/trace", &requests::sublayers(case, self.depth)).await?.body;
            let effect =
                Mean { mean: answer["total_effect"][LOG_P]["mean"].as_f64().unwrap_or(f64::NAN), se: None };
            rows.push(vec![
                format!("{:?}", case.target),
                format!("{:?}", case.subject),
                short(answer["baselines"]["clean"][P].as_f64()),
                short(answer["baselines"]["corrupted"][P]["mean"].as_f64()),
                with_error(Some(effect)),
            ]);
            answers.push(answer);
        }
        let head = [
            ("target", Left),
            ("noise on", Left),
            ("P clean", Right),
            ("P corrupted", Right),
            ("total effect, log P", Right),
        ];
        self.screen.table(&head, &rows)?;
        self.screen.line("")?;
        self.screen.say(
            "Mean effect over a prompt's positions, then over the four prompts (± standard error, n = 4):",
        )?;
        self.screen.line("")?;
        let layers: Vec<u64> =
            items(&answers[0]["arms"]["mlp"]["axes"][0]["values"]).iter().filter_map(Value::as_u64).collect();
        let average = |arm: &str, metric: &str, row: usize| {
            let per_prompt = answers.iter().map(|answer| {
                let positions = flat(&answer["arms"][arm]["effects"][metric]["mean"][row]);
                Mean::of(positions).map(|m| m.mean)
            });
            Mean::of(per_prompt)
        };
        let rows = layers.iter().enumerate().map(|(i, layer)| {
            vec![
                layer.to_string(),
                with_error(average("mlp", LOG_P, i)),
                with_error(average("attn", LOG_P, i)),
                signed(average("mlp", P, i).map(|m| m.mean)),
                signed(average("attn", P, i).map(|m| m.mean)),
            ]
        });
        let head = [
            ("layer", Right),
            ("MLP, log P", Right),
            ("attention, log P", Right),
            ("MLP, P", Right),
            ("attention, P", Right),
        ];
        self.screen.table(&head, &rows.collect::<Vec<_>>())?;
        self.screen.lints(&answers.iter().collect::<Vec<_>>())?;
        let series = |name: &str, arm: &str| Series {
            name: name.to_owned(),
            bars: (0..layers.len()).map(|i| bar(average(arm, LOG_P, i))).collect(),
        };
        let model = answers[0]["model"].as_str().unwrap_or_default();
        let bars = Bars {
            title: "Average indirect effect over four puns".to_owned(),
            subtitle: format!("{model}  ·  mean over positions, then over prompts ± standard error, n = 4"),
            labels: layers.iter().map(u64::to_string).collect(),
            x_label: "layer".to_owned(),
            value_label: "effect on log P(target) in nats".to_owned(),
            series: vec![series("MLP", "mlp"), series("attention", "attn")],
            baselines: vec![],
        };
        let files = self.files.bars("part4-average-effect", &bars)?;
        self.screen.wrote(&files)?;
        Ok(())
    }

    pub(super) async fn mlp_against_attention(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 5 · MLP against attention")?;
        let list = requests::fifths(self.depth);
        let (pun, layers) = (PUNS[0], json!(list));
        self.screen.say("All positions of one sublayer restored at once, at the notebook's depths. The same noise for both, and ten draws of it instead of one:")?;
        self.screen
            .request("/v1/patch", &requests::restored(pun, Noise::Subject { seed: 1 }, "mlp_out", &layers))?;
        let (mut answers, mut noised) = ([Vec::new(), Vec::new()], Vec::new());
        for seed in SEEDS {
            let noise = Noise::Subject { seed };
            noised.push(self.client.post("/v1/patch", &requests::noised(pun, noise)).await?.body);
            for (site, list) in ["mlp_out", "attn_out"].iter().zip(&mut answers) {
                list.push(
                    self.client.post("/v1/patch", &requests::restored(pun, noise, site, &layers)).await?.body,
                );
            }
        }
        let effect = |site: usize, metric: &str, i: usize| {
            let pairs = answers[site].iter().zip(&noised);
            Mean::of(pairs.map(|(patched, noised)| {
                Some(patched["values"][metric][i].as_f64()? - noised["values"][metric].as_f64()?)
            }))
        };
        let rows = list.iter().enumerate().map(|(i, layer)| {
            vec![
                layer.to_string(),
                with_error(effect(0, LOG_P, i)),
                with_error(effect(1, LOG_P, i)),
                signed(effect(0, P, i).map(|m| m.mean)),
                signed(effect(1, P, i).map(|m| m.mean)),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let clean = answers[0][0]["baselines"]["clean"][P].as_f64();
        let corrupted = Mean::of(noised.iter().map(|answer| answer["values"][P].as_f64()));
        self.screen.say(&format!(
            "P(\" current\"): {} clean, {} with noise (mean of {}).",
            short(clean),
            short(corrupted.map(|m| m.mean)),
            noised.len()
        ))?;
        self.screen.line("")?;
        let head = [
            ("layer", Right),
            ("MLP, log P", Right),
            ("attention, log P", Right),
            ("MLP, P", Right),
            ("attention, P", Right),
        ];
        self.screen.table(&head, &rows)?;
        let all: Vec<&Value> = answers.iter().flatten().collect();
        self.screen.lints(&all)?;
        let series = |name: &str, site: usize| Series {
            name: name.to_owned(),
            bars: (0..list.len()).map(|i| bar(effect(site, P, i))).collect(),
        };
        let model = noised[0]["model"].as_str().unwrap_or_default();
        let bars = Bars {
            title: format!("MLP against attention: P({CURRENT:?})"),
            subtitle: format!(
                "{model}  ·  all positions restored, noise of 3σ on {:?}, mean of {} draws ± standard error",
                pun.subject,
                noised.len()
            ),
            labels: list.iter().map(u64::to_string).collect(),
            x_label: "layer".to_owned(),
            value_label: format!("effect on P({CURRENT:?})"),
            series: vec![series("MLP", 0), series("attention", 1)],
            baselines: Vec::<Baseline>::new(),
        };
        let files = self.files.bars("part5-mlp-against-attention", &bars)?;
        self.screen.wrote(&files)?;
        Ok(())
    }

    pub(super) async fn confident_trace(&mut self) -> anyhow::Result<()> {
        let Case { prompt, target, subject } = EIFFEL;
        self.screen.heading("A fact that the model knows")?;
        self.screen.say(&format!("{prompt:?}, noise of 3 sigma on {subject:?}."))?;
        let body = requests::with_plots(requests::trace(EIFFEL, self.depth));
        let answer = self.ask_patiently(&body).await?;
        let (took, answer) = (answer.took, answer.body);
        self.traced(&answer, target)?;
        let what = format!("P({target:?})");
        for arm in ["hidden", "mlp", "attn"] {
            self.screen.heatmap(&map::of_arm(&answer, arm, P, &what))?;
        }
        self.screen.line("")?;
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
        self.screen.line("")?;
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

fn bar(of: Option<Mean>) -> Bar {
    Bar { value: of.map(|m| m.mean), error: of.and_then(|m| m.se), trivial: false }
}

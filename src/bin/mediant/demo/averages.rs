//! The parts that average over several answers: four prompts, several draws of noise.

use serde_json::{Value, json};

use super::requests::{self, CURRENT, Case, LOG_P, Noise, P, PUNS};
use super::story::Story;
use crate::screen::Align::{Left, Right};
use crate::screen::numbers::{Mean, flat, items, short, signed, with_error};
use mediant::draw::bars::{Bar, Bars, Series};

impl Story {
    pub(super) async fn average_effects(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 4 · Average indirect effect over four puns")?;
        for Case { prompt, target, .. } in PUNS {
            self.screen.say(&format!("{prompt:?} →\u{a0}{target:?}"))?;
        }
        self.screen.gap()?;
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
            ]);
            answers.push(answer);
        }
        let head = [
            ("target", Left),
            ("P clean", Right),
            ("P with noise", Right),
            ("layers that give the clean P to the bit when restored", Right),
        ];
        self.screen.table(&head, &rows)?;
        self.screen.lints(&answers.iter().collect::<Vec<_>>())?;
        self.screen.gap()?;
        self.screen.say("So every layer scores the whole difference: the average ranks nothing. Restoring one sublayer's output at one position at a time does:")?;
        self.sublayer_effects().await
    }

    async fn sublayer_effects(&mut self) -> anyhow::Result<()> {
        self.screen.request("/v1/trace", &requests::sublayers(PUNS[0], self.depth, self.samples))?;
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for case in PUNS {
            let answer = self
                .client
                .post("/v1/trace", &requests::sublayers(case, self.depth, self.samples))
                .await?
                .body;
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
        self.screen.gap()?;
        self.screen.say(
            "Mean effect over a prompt's positions, then over the four prompts (± standard error, n\u{a0}=\u{a0}4):",
        )?;
        self.screen.gap()?;
        let layers: Vec<u64> =
            items(&answers[0]["arms"]["mlp"]["axes"][0]["values"]).iter().filter_map(Value::as_u64).collect();
        let average = |arm: &str, metric: &str, row: usize| {
            let per_prompt = answers.iter().map(|answer| {
                let positions = flat(&answer["arms"][arm]["effects"][metric]["mean"][row]);
                Mean::of(positions).map(|m| m.mean)
            });
            Mean::of(per_prompt)
        };
        let all = (0..layers.len()).flat_map(|i| [average("mlp", LOG_P, i), average("attn", LOG_P, i)]);
        let clear = all.flatten().filter(Mean::is_clear).count();
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
        self.screen.gap()?;
        self.screen.say(&format!(
            "{clear} of {} averages of log P lie more than two standard errors from 0: four puns that the model does \
             not get are no evidence of where it would compute them.",
            2 * layers.len()
        ))?;
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
            ..Bars::default()
        };
        let files = self.files.bars("part4-average-effect", &bars)?;
        self.screen.wrote(&files)?;
        Ok(())
    }

    pub(super) async fn mlp_against_attention(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Part 5 · MLP against attention")?;
        let list = requests::fifths(self.depth);
        let (pun, layers) = (PUNS[0], json!(list));
        self.screen.say("All positions of one sublayer restored at once, at the notebook's depths. The same noise for both, drawn several times instead of once (the requests differ in site and seed):")?;
        self.screen
            .request("/v1/patch", &requests::restored(pun, Noise::Subject { seed: 1 }, "mlp_out", &layers))?;
        let (mut answers, mut noised) = ([Vec::new(), Vec::new()], Vec::new());
        for seed in 1..=self.samples {
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
        self.screen.gap()?;
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
            baselines: vec![],
            ..Bars::default()
        };
        let files = self.files.bars("part5-mlp-against-attention", &bars)?;
        self.screen.wrote(&files)?;
        Ok(())
    }
}

fn bar(of: Option<Mean>) -> Bar {
    Bar { value: of.map(|m| m.mean), error: of.and_then(|m| m.se), ..Bar::default() }
}

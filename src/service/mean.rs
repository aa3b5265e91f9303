//! Means of activations over the prompts of data sets: plain captures, averaged prompt by prompt.

use serde_json::{Map, Value, json};

use super::{Refusal, ServedTo, Service};
use crate::capacity::{Abandoned, Lane, Share};
use crate::lower;
use crate::result::run::CaptureResult;
use crate::spec::activation::{Prompts, UploadSpec, Values};
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::Prompt;
use crate::spec::run::RunSpec;
use crate::spec::select::Layers;

/// The sum of the rows of some prompts, `[layers, width]`.
struct Sum {
    layers: Option<Vec<u32>>,
    shape: [usize; 2],
    numbers: Vec<f64>,
}

impl Service {
    /// Computes the numbers of an upload that is a mean.
    pub(super) async fn averaged(&self, spec: UploadSpec, share: &Share) -> Result<UploadSpec, Refusal> {
        let check = move |facts: &ServedTo, _: &Abandoned| {
            lower::check_mean(&spec, facts)?;
            Ok(spec)
        };
        let mut spec = self.off_workers(share, Lane::Prepare, check).await?;
        let Some(mean) = spec.mean_of.clone() else { return Ok(spec) };
        let read = json!({"topk": 1, "capture": [{
            "site": spec.site,
            "layers": spec.site.has_layer().then(|| spec.layers.clone().unwrap_or(Layers::ALL)),
            "positions": mean.positions,
        }]});
        let of = self.mean(&mean.dataset, &read, share).await?;
        let mut numbers = of.numbers;
        if let Some(minus) = &mean.minus {
            let minus = self.mean(minus, &read, share).await?;
            numbers.iter_mut().zip(minus.numbers).for_each(|(x, y)| *x -= y);
        }
        spec.layers = of.layers.map(Layers::List);
        spec.values =
            Values { shape: of.shape.to_vec(), data: numbers.into_iter().map(|x| x as f32).collect() };
        Ok(spec)
    }

    async fn mean(&self, prompts: &Prompts, read: &Value, share: &Share) -> Result<Sum, Refusal> {
        let (mut sum, mut first) = (None, 0);
        let mut at_once = self.served.limits.runs as usize;
        while first < prompts.list.len() {
            let chunk = &prompts.list[first..prompts.list.len().min(first + at_once)];
            match self.answer::<RunSpec>((request(first, chunk, read), share)).await {
                Ok(response) => {
                    for (i, (_, run)) in response.runs.iter().enumerate() {
                        let capture = run.captures.first().ok_or_else(|| unknown(prompts, first + i))?;
                        add(&mut sum, capture).ok_or_else(|| unknown(prompts, first + i))?;
                    }
                    first += chunk.len();
                }
                // Of long prompts, or many layers, fewer go together.
                Err(Refusal::Invalid(problems)) if chunk.len() > 1 && too_many(&problems) => {
                    at_once = chunk.len() / 2;
                }
                Err(Refusal::TooLarge { .. }) if chunk.len() > 1 => at_once = chunk.len() / 2,
                Err(Refusal::Invalid(problems)) => return Err(placed(problems, prompts).into()),
                Err(other) => return Err(other),
            }
        }
        let mut sum = sum.ok_or_else(|| unknown(prompts, 0))?;
        let n = prompts.list.len() as f64;
        sum.numbers.iter_mut().for_each(|x| *x /= n);
        Ok(sum)
    }
}

/// A run of each prompt, named by its place among all.
fn request(first: usize, prompts: &[Prompt], read: &Value) -> Value {
    let run = |(i, prompt): (usize, &Prompt)| {
        let prompt = serde_json::to_value(prompt).expect("BUG: prompts are text and numbers");
        ((first + i).to_string(), prompt)
    };
    let runs: Map<String, Value> = prompts.iter().enumerate().map(run).collect();
    let mut read = read.clone();
    if read["capture"][0]["layers"].is_null()
        && let Some(capture) = read["capture"][0].as_object_mut()
    {
        capture.remove("layers");
    }
    json!({"runs": runs, "read": read})
}

/// Adds the mean over the positions of a prompt. `None`: a number is not finite.
fn add(sum: &mut Option<Sum>, capture: &CaptureResult) -> Option<()> {
    let values = capture.values.as_ref()?;
    let [positions, width] = *capture.shape.last_chunk()?;
    let depth = values.data.len() / (positions * width);
    let sum = sum.get_or_insert_with(|| Sum {
        layers: capture.layers.clone(),
        shape: [depth, width],
        numbers: vec![0.0; depth * width],
    });
    for (layer, rows) in values.data.chunks_exact(positions * width).enumerate() {
        let own = &mut sum.numbers[layer * width..][..width];
        for row in rows.chunks_exact(width) {
            for (sum, x) in own.iter_mut().zip(row) {
                *sum += f64::from((*x)?) / positions as f64;
            }
        }
    }
    Some(())
}

fn too_many(problems: &Problems) -> bool {
    problems.0.iter().all(|problem| problem.code == code::LIMIT)
}

/// Problems of the runs as those of the cases that they are of.
fn placed(mut problems: Problems, prompts: &Prompts) -> Problems {
    let cases = prompts.at.as_str();
    for problem in &mut problems.0 {
        let parts = [
            ("/runs", cases),
            ("/read/capture/0/positions", "/mean_of/positions"),
            ("/read/capture/0/layers", "/layers"),
            ("/read/capture/0/site", "/site"),
            ("/read", "/mean_of"),
        ];
        if let Some((from, to)) = parts.iter().find(|(from, _)| problem.pointer.starts_with(from)) {
            problem.pointer = format!("{to}{}", &problem.pointer[from.len()..]);
            let long = "/spans/subject";
            let of_case = problem.pointer.strip_prefix(cases).and_then(|rest| rest.strip_suffix(long));
            let case = of_case.and_then(|rest| rest.trim_start_matches('/').parse::<usize>().ok());
            if case.is_some_and(|case| prompts.short.get(case) == Some(&true)) {
                problem.pointer = problem.pointer.replace(long, "/subject");
            }
        }
    }
    problems
}

fn unknown(prompts: &Prompts, case: usize) -> Refusal {
    let mut problems = Problems::default();
    let detail = "activations of this prompt are NaN or infinite";
    problems.push(
        format!("{}/{case}", prompts.at),
        code::OUT_OF_RANGE,
        detail,
        "leave the case out, or serve the model in bf16 or f32",
    );
    problems.into()
}

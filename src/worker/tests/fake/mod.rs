//! A tiny model without weights that computes programs: every site depends on all sites before it, and every position on those
//! before it, so that a write that is lost or misplaced changes what comes after.

use mediant_worker::evaluator::Refusal;
use mediant_worker::message::{Limits, Model, Tap};
use mediant_worker::program::{Op, Place, Program};
use mediant_worker::taps::Server;
use std::collections::HashMap;

pub(crate) const WIDTH: usize = 4;
pub(crate) const LAYERS: u32 = 3;
pub(crate) const WORDS: usize = 7;

/// Answers programs, and counts them.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub programs: Vec<Program>,
}

/// The model as a worker is told of it.
pub(crate) fn model() -> Model {
    let tap = |path: &str, site: &str, width: usize, moment: u32, tuple: u32| Tap {
        path: path.into(),
        site: site.into(),
        width: width as u32,
        moment,
        writable: site != "logits",
        replaced_at: None,
        tuple,
        second: None,
        activated: false,
    };
    let norm = |path: &str, site: &str, moment: u32, to: &str| Tap {
        replaced_at: Some(to.into()),
        ..tap(path, site, WIDTH, moment, 0)
    };
    Model {
        repo_id: "fake".into(),
        config: r#"{"num_hidden_layers": 3}"#.into(),
        layers: LAYERS,
        heads: 2,
        kv_heads: 2,
        head_width: 2,
        dtype: "float32".into(),
        pad: 0,
        taps: vec![
            tap("model.model.embed_tokens.output", "embed", WIDTH, 0, 0),
            tap("model.model.layers.*.input", "resid_pre", WIDTH, 0, 0),
            norm("model.model.layers.*.input_layernorm.input", "resid_pre", 0, "attn_in"),
            tap("model.model.layers.*.input_layernorm.output", "attn_in", WIDTH, 1, 0),
            tap("model.model.layers.*.self_attn.output", "attn_out", WIDTH, 2, 2),
            tap("model.model.layers.*.mlp.output", "mlp_out", WIDTH, 3, 0),
            tap("model.model.layers.*.output", "resid_post", WIDTH, 4, 0),
            tap("model.model.norm.output", "final_norm", WIDTH, 0, 0),
            tap("model.lm_head.output", "logits", WORDS, 0, 0),
        ],
        context: 64,
    }
}

/// Room for a test.
pub(crate) const LIMITS: Limits = Limits {
    unpacked_bytes: 1 << 24,
    tensor_bytes: 1 << 28,
    operations: 1_000_000,
    programs: 10_000,
    result_bytes: 1 << 26,
    log_bytes: 1 << 16,
};

type Rows = Vec<Vec<f32>>;

struct Pass<'p> {
    program: &'p Program,
    got: HashMap<(u32, String, Option<u32>), Rows>,
}

impl Pass<'_> {
    /// The value of a site in every run: its writes, in their order, run by run.
    fn at(&mut self, site: &str, layer: Option<u32>, values: &mut [Rows]) {
        let place = Place { site: site.into(), layer };
        for run in 0..values.len() {
            for write in
                self.program.writes.iter().filter(|write| write.run as usize == run && write.place == place)
            {
                let width = values[run][0].len() as u32;
                let columns = write.columns.clone().unwrap_or(0..width);
                for (i, &position) in write.positions.iter().enumerate() {
                    for (j, column) in columns.clone().enumerate() {
                        let from = |numbers: &[f32]| numbers[i * columns.len() + j];
                        let now = values[run][position as usize][column as usize];
                        values[run][position as usize][column as usize] = match &write.op {
                            Op::Replace(numbers) => from(numbers),
                            Op::Add(numbers) => now + from(numbers),
                            Op::Scale(factor) => now * factor,
                            Op::Zero => 0.0,
                            Op::ReplaceByRun { run: other, positions } => {
                                assert!((*other as usize) < run, "a run takes numbers from one before it");
                                values[*other as usize][positions[i] as usize][column as usize]
                            }
                        };
                    }
                }
            }
            self.got.insert((run as u32, site.into(), layer), values[run].clone());
        }
    }
}

impl Server for Fake {
    fn forward(&mut self, program: Program) -> Result<Vec<Vec<f32>>, Refusal> {
        for (i, run) in program.runs.iter().enumerate() {
            let Some(parent) = run.parent else { continue };
            assert!((parent as usize) < i && program.runs[parent as usize].tokens == run.tokens);
            assert!(program.writes.iter().all(|write| write.run != parent), "a parent has no writes");
        }
        let mut pass = Pass { program: &program, got: HashMap::new() };
        let each = |values: &[Rows], f: &dyn Fn(&Rows, usize, usize) -> f32, width: usize| -> Vec<Rows> {
            let rows =
                |rows: &Rows| (0..rows.len()).map(|t| (0..width).map(|c| f(rows, t, c)).collect()).collect();
            values.iter().map(rows).collect()
        };
        let embed = |token: u32, c: usize| ((token as usize * 7 + c * 3) % 11) as f32 * 0.25 - 1.0;
        let mut x: Vec<Rows> = program
            .runs
            .iter()
            .map(|run| {
                run.tokens.iter().map(|&token| (0..WIDTH).map(|c| embed(token, c)).collect()).collect()
            })
            .collect();
        pass.at("embed", None, &mut x);
        for layer in 0..LAYERS {
            let layer = Some(layer);
            pass.at("resid_pre", layer, &mut x);
            let mut normed = each(&x, &|x, t, c| x[t][c] * 0.5 + x[t][(c + 1) % WIDTH] * 0.125 + 0.25, WIDTH);
            pass.at("attn_in", layer, &mut normed);
            let mut attention =
                each(&normed, &|x, t, c| x[..=t].iter().map(|row| row[c]).sum::<f32>() * 0.3, WIDTH);
            pass.at("attn_out", layer, &mut attention);
            for (x, more) in x.iter_mut().zip(&attention) {
                for (x, more) in x.iter_mut().zip(more) {
                    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
                }
            }
            let mut mlp = each(&x, &|x, t, c| (x[t][c] + x[t][(c + 2) % WIDTH]) * 0.125, WIDTH);
            pass.at("mlp_out", layer, &mut mlp);
            for (x, more) in x.iter_mut().zip(&mlp) {
                for (x, more) in x.iter_mut().zip(more) {
                    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
                }
            }
            pass.at("resid_post", layer, &mut x);
        }
        let mut normed = each(&x, &|x, t, c| x[t][c] * 0.5, WIDTH);
        pass.at("final_norm", None, &mut normed);
        let mut logits =
            each(&normed, &|x, t, v| (0..WIDTH).map(|c| x[t][c] * ((v * (c + 1)) % 5) as f32).sum(), WORDS);
        pass.at("logits", None, &mut logits);
        let read = |read: &mediant_worker::program::Read| -> Vec<f32> {
            let rows = &pass.got[&(read.run, read.place.site.clone(), read.place.layer)];
            read.positions.iter().flat_map(|&position| rows[position as usize].clone()).collect()
        };
        let values = program.reads.iter().map(read).collect();
        self.programs.push(program);
        Ok(values)
    }
}

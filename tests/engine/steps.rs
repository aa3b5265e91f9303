//! Steps of generation: a new row that sees the keys its text has kept has the bits that it has in one forward over the whole
//! text. With controls that show the test can fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use mediant::engine::Model;
use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::plan::batch::{AskedRows, ForwardBatch};
use mediant::plan::draw::{Choice, Draw};
use mediant::plan::pack::Mode;
use mediant::plan::step::{StepBatch, StepRow};
use mediant::plan::{Address, Along, Capture, Edit, EditGroup, Kept, Op, Plan, RunId, Score, Source};
use mediant::spec::site::Site;

use crate::faulty::{Fault, Faulty};
use crate::tiny::{SLOTS, WORLDS, config, golden, on, ranks, run, sites_of, uniform};

const LAYERS: u32 = 4;
const PROMPT: [u32; 7] = [17, 301, 5, 44, 209, 498, 3];
const OTHER: [u32; 5] = [12, 400, 61, 150, 88];
const STEPS: usize = 5;
const MODELS: [&str; 4] = ["tiny_llama", "tiny_qwen2", "tiny_qwen3", "tiny_gpt2"];

/// What is continued: a prompt, edits of it from a position on, edits of each step.
struct Text {
    prompt: &'static [u32],
    tokens: Vec<u32>,
    /// Whose slots it reads before its first own.
    parent: Option<usize>,
    /// Positions are the prompt's.
    edits: Vec<Edit>,
    /// By step from 1 on; positions are 0, a run is a text.
    steps: Vec<Vec<Edit>>,
    /// Place of each position in the store.
    slots: Vec<u32>,
}

impl Text {
    /// The first position with a slot of its own.
    fn first(&self) -> u32 {
        let of_edits = self.edits.iter().flat_map(|edit| edit.positions.iter().copied()).min();
        match self.parent {
            None => 0,
            Some(_) => of_edits.unwrap_or(self.prompt.len() as u32),
        }
    }

    /// The position of a step's row.
    fn position(&self, step: usize) -> u32 {
        (self.prompt.len() + step - 1) as u32
    }
}

fn edit(layer: u32, site: Site, position: u32, op: Op) -> Edit {
    Edit::new(Address { layer, site }, vec![position], op, EditGroup::Patch)
}

fn width(model: &str, site: Site) -> usize {
    config(&golden(model)).site_width(site, 0)
}

fn constant(model: &str, site: Site, name: &str) -> Source {
    Source::Constant(uniform(name, width(model, site)).into())
}

/// The first direction of a site.
fn first(model: &str, site: Site) -> Arc<[f32]> {
    (0..width(model, site)).map(|i| f32::from(u8::from(i == 0))).collect()
}

/// An edit of every site of a row that a step may write, each layer another operation.
fn everywhere(model: &str, layer: u32) -> Vec<Edit> {
    let sites = sites_of(&config(&golden(model)))
        .into_iter()
        .filter(|site| site.is_editable() && !site.is_over_keys());
    let edits =
        sites.filter(|site| (Site::ResidPre as usize..=Site::ResidPost as usize).contains(&(*site as usize)));
    edits
        .enumerate()
        .map(|(i, site)| {
            let source = constant(model, if site == Site::HeadOut { Site::Z } else { site }, "step");
            let op = match (i as u32 + layer) % 5 {
                _ if site == Site::HeadOut => Op::Replace(source),
                0 => Op::Replace(source),
                1 => Op::Add { source, coef: 0.25, norm_match: true },
                2 => Op::Scale(0.5),
                3 => Op::Along { direction: first(model, site), change: Along::Clamp(0.5, 0.75) },
                _ => Op::add(source),
            };
            edit(layer, site, 0, op)
        })
        .collect()
}

/// Texts of two prompts: plain, branched in the middle and at the end of the prompt, edited at all or some steps, by vectors
/// and by one another.
fn texts(model: &str) -> Vec<Text> {
    let tokens = |seed: u32| (0..STEPS as u32).map(|i| (seed + 37 * i * i) % 512).collect();
    let none = || vec![Vec::new(); STEPS];
    let plain = |prompt, seed| Text {
        prompt,
        tokens: tokens(seed),
        parent: None,
        edits: Vec::new(),
        steps: none(),
        slots: Vec::new(),
    };
    let branch = |seed, edits, steps| Text { parent: Some(0), edits, steps, ..plain(&PROMPT, seed) };
    let add = |site| Op::add(constant(model, site, "prompt"));
    let read = |text: u32| Op::Replace(Source::Run { run: RunId(text), positions: vec![0] });
    let mut all = vec![
        plain(&PROMPT, 9),
        plain(&OTHER, 50),
        branch(9, vec![edit(1, Site::ResidPost, 3, add(Site::ResidPost))], none()),
        branch(
            80,
            vec![edit(2, Site::Z, 6, Op::Zero)],
            (0..STEPS as u32).map(|step| everywhere(model, step % LAYERS)).collect(),
        ),
        branch(
            9,
            vec![edit(0, Site::Embed, 0, add(Site::Embed)), edit(3, Site::KRope, 5, Op::Scale(0.0))],
            (0..STEPS)
                .map(|step| if step % 2 == 0 { vec![edit(1, Site::MlpOut, 0, read(3))] } else { Vec::new() })
                .collect(),
        ),
        // Nothing of its prompt is its own.
        branch(9, Vec::new(), vec![vec![edit(2, Site::V, 0, read(4))]; STEPS]),
    ];
    for (layer, position) in [(1, 2), (0, 4), (2, 6)] {
        let op = Op::Project {
            basis: (0..width(model, Site::AttnOut)).map(|i| f32::from(u8::from(i == 1))).collect(),
            source: None,
        };
        all[4].edits.push(edit(layer, Site::AttnOut, position, op));
    }
    placed(all)
}

/// Gives every text its places in the store.
fn placed(mut all: Vec<Text>) -> Vec<Text> {
    let mut next = 3;
    for i in 0..all.len() {
        let first = all[i].first() as usize;
        let mut slots = all[i].parent.map_or(Vec::new(), |parent| all[parent].slots[..first].to_vec());
        while slots.len() < all[i].prompt.len() + STEPS {
            slots.push(next % SLOTS as u32);
            // Not one beside the other.
            next += 7;
        }
        all[i].slots = slots;
    }
    assert!(next / 7 < SLOTS as u32);
    all
}

fn scoring(plan: &mut Plan) {
    plan.scoring.targets = (0..512).collect();
    plan.scoring.topk = 3;
}

fn asked(count: usize) -> AskedRows {
    AskedRows { count, targets: (0..512).collect(), topk: 3, kl_refs: Vec::new(), entropy: false }
}

/// The scores of each text's steps, from 0 on, by one forward over each whole text; and a capture of every row.
fn whole(model: &mut impl Model, texts: &[Text]) -> (Vec<Vec<Score>>, Vec<Vec<f32>>) {
    let mut plan = Plan::default();
    let mut roots = Vec::new();
    for text in texts {
        let root = plan.root(text.prompt.iter().chain(&text.tokens).copied().collect());
        plan.runs[root.0 as usize].prompt = text.prompt.len() as u32;
        roots.push(root);
    }
    let mut captures = Vec::new();
    for (text, root) in texts.iter().zip(roots) {
        let mut edits = text.edits.clone();
        for (step, of_step) in text.steps.iter().enumerate() {
            let position = text.position(step + 1);
            for edit in of_step {
                let mut edit = edit.clone();
                edit.positions = vec![position];
                if let Some((read, _)) = edit.op.run_read() {
                    let there = texts[read.0 as usize].position(step + 1);
                    let run = RunId(read.0 + texts.len() as u32);
                    edit.op.read_run(run);
                    edit.op.run_read_mut().unwrap().1[0] = there;
                }
                edits.push(edit);
            }
        }
        let run = plan.branch(root, edits);
        for step in 0..=STEPS {
            plan.read(run, text.position(step));
        }
        let positions = (1..=STEPS).map(|step| text.position(step)).collect();
        captures.push(Capture { run, at: Address { layer: 2, site: Site::ResidPost }, positions });
    }
    plan.captures = captures;
    scoring(&mut plan);
    let outcome = run(model, LAYERS, &plan, 100_000, Mode::Branching);
    (outcome.scores.chunks(STEPS + 1).map(<[Score]>::to_vec).collect(), outcome.captures)
}

/// Reads the prompts and keeps their keys; the scores of step 0. `budget`: rows of a batch.
fn prefill(model: &mut impl Model, texts: &[Text], which: &[usize], budget: usize) -> Vec<Score> {
    let mut plan = Plan::default();
    let mut runs: Vec<(usize, RunId)> = Vec::new();
    for &i in which {
        let text = &texts[i];
        // The base keeps what its branches read, whether it goes on itself or not.
        let base = text.parent.map_or(i, |parent| parent);
        let known = runs.iter().find(|(other, _)| *other == base).map(|(_, run)| *run);
        let root = known.unwrap_or_else(|| {
            let root = plan.root(Arc::from(text.prompt));
            let slots = texts[base].slots[..text.prompt.len()].to_vec();
            plan.kept.push(Kept { run: root, first: 0, slots });
            runs.push((base, root));
            root
        });
        let run = if text.parent.is_none() {
            root
        } else {
            let run = plan.branch(root, text.edits.clone());
            let first = text.first();
            let slots = text.slots[first as usize..text.prompt.len()].to_vec();
            plan.kept.push(Kept { run, first, slots });
            run
        };
        plan.read(run, text.position(0));
    }
    scoring(&mut plan);
    run(model, LAYERS, &plan, budget, Mode::Branching).scores
}

/// The batch of a step, from 1 on.
fn step(texts: &[Text], which: &[usize], step: usize) -> StepBatch {
    let row = |&i: &usize| {
        let text = &texts[i];
        let position = text.position(step);
        let mut edits = text.steps[step - 1].clone();
        for edit in &mut edits {
            if let Some((read, _)) = edit.op.run_read() {
                let row = which.iter().position(|text| *text == read.0 as usize).unwrap();
                edit.op.read_run(RunId(row as u32));
            }
        }
        StepRow {
            token: text.tokens[step - 1],
            position,
            prompt: text.prompt.len() as u32,
            slots: text.slots[..=position as usize].to_vec(),
            edits,
            captures: vec![Address { layer: 2, site: Site::ResidPost }],
            lens: Vec::new(),
        }
    };
    StepBatch::new(&which.iter().map(row).collect::<Vec<_>>(), vec![asked(which.len())], Vec::new(), LAYERS)
}

/// Goes through all steps of some texts. Whether every score and every captured row is that of the whole text.
fn same_as_whole(
    model: &mut impl Model,
    texts: &[Text],
    which: &[usize],
    expected: &(Vec<Vec<Score>>, Vec<Vec<f32>>),
    budget: usize,
) -> bool {
    let first = prefill(model, texts, which, budget);
    let mut same = which.iter().zip(&first).all(|(text, score)| expected.0[*text][0] == *score);
    for i in 1..=STEPS {
        let output = model.forward(&Arc::new(step(texts, which, i).batch)).unwrap();
        for (place, text) in which.iter().enumerate() {
            same &= output.scores[place].logits == expected.0[*text][i].logits;
            same &= output.scores[place].top == expected.0[*text][i].top;
            let width = output.captures[place].1.len();
            same &= output.captures[place].1 == expected.1[*text][(i - 1) * width..][..width];
        }
    }
    same
}

#[test]
fn every_step_has_the_bits_of_one_forward_over_the_whole_text_in_every_dtype_on_any_ranks() {
    for name in MODELS {
        let texts = texts(name);
        for (dtype, world) in
            [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(|d| WORLDS.map(|w| (d, w)))
        {
            let (mut model, _) = ranks(&golden(name), world, dtype);
            let expected = whole(&mut model, &texts);
            assert_ne!(expected.0[0][1].logits, expected.0[2][1].logits, "branches differ");
            let at = format!("{name}, {dtype:?} on {world}");
            for which in [&[0, 1, 2, 3, 4, 5][..], &[5, 3, 1, 4], &[0], &[1], &[2], &[3]] {
                assert!(same_as_whole(&mut model, &texts, which, &expected, 100_000), "{at}, {which:?}");
            }
            assert!(same_as_whole(&mut model, &texts, &[0, 1, 2, 3], &expected, 20), "{at}, in chunks");
        }
    }
}

#[test]
fn a_step_beside_sixty_three_others_has_the_bits_of_the_whole_text() {
    const COMPANY: usize = 64;
    let few = texts("tiny_llama");
    let mut all = texts("tiny_llama");
    let used: BTreeSet<u32> = few.iter().flat_map(|text| text.slots.iter().copied()).collect();
    let mut free = (0..SLOTS as u32).filter(|slot| !used.contains(slot));
    while all.len() < COMPANY {
        let own = all[0].slots[..PROMPT.len()].iter().copied().chain(free.by_ref().take(2)).collect();
        let tokens = (0..STEPS as u32).map(|step| (31 * all.len() as u32 + step) % 512).collect();
        all.push(Text { tokens, steps: vec![Vec::new(); STEPS], slots: own, ..text_like(&few[5]) });
    }
    let which: Vec<usize> = (0..COMPANY).collect();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let (mut model, _) = ranks(&golden("tiny_llama"), 1, dtype);
        let expected = whole(&mut model, &few);
        prefill(&mut model, &all, &which, 100_000);
        for i in 1..=2 {
            let scores = model.forward(&Arc::new(step(&all, &which, i).batch)).unwrap().scores;
            for (text, score) in scores.iter().enumerate().take(few.len()) {
                assert_eq!(score.logits, expected.0[text][i].logits, "{dtype:?}, text {text}, step {i}");
            }
        }
    }
}

fn faulty(fault: Fault) -> Decoder<Faulty> {
    let inner = Cpu::new(2, Dtype::F32).unwrap();
    on(Faulty { inner, fault }, Shard::whole(&config(&golden("tiny_llama"))))
}

#[test]
fn keys_that_are_kept_in_the_wrong_place_are_seen() {
    let texts = texts("tiny_llama");
    let mut model = faulty(Fault::KeepsOffByOne);
    let expected = whole(&mut model, &texts);
    for text in 0..4 {
        assert!(!same_as_whole(&mut model, &texts, &[text], &expected, 100_000), "text {text}");
    }
}

/// A decoder whose batches are changed on their way in.
struct Changed<M, F>(M, F);

impl<M: Model, F: Fn(&mut ForwardBatch) + Send> Model for Changed<M, F> {
    fn forward(
        &mut self,
        batch: &Arc<ForwardBatch>,
    ) -> Result<mediant::plan::output::BatchOutput, mediant::engine::ModelError> {
        let mut batch = ForwardBatch::clone(batch);
        (self.1)(&mut batch);
        self.0.forward(&Arc::new(batch))
    }
}

#[test]
fn keys_kept_before_their_edit_or_one_key_too_many_or_an_edit_left_out_are_seen() {
    let texts = texts("tiny_llama");
    let decoder = || ranks(&golden("tiny_llama"), 1, Dtype::F32).0;
    let expected = whole(&mut decoder(), &texts);
    // What is written to keys and values shows in the store only if it is there before they are kept: writing it to what comes
    // after is the same as keeping before.
    let before = |batch: &mut ForwardBatch| {
        if batch.step.is_some() {
            let at = |site: Site| site as usize - Site::ResidPre as usize;
            for layer in &mut batch.layers {
                for site in [Site::K, Site::V, Site::KRope] {
                    layer.taps[at(site)].steps.clear();
                }
            }
        }
    };
    assert!(!same_as_whole(&mut Changed(decoder(), before), &texts, &[3], &expected, 100_000));
    let unedited = |batch: &mut ForwardBatch| {
        if batch.step.is_some() {
            let taps = batch.layers.iter_mut().flat_map(|layer| &mut layer.taps);
            taps.for_each(|tap| tap.steps.clear());
        }
    };
    assert!(!same_as_whole(&mut Changed(decoder(), unedited), &texts, &[3], &expected, 100_000));
    assert!(!same_as_whole(&mut faulty(Fault::SeesOneKeyTooMany), &texts, &[0], &expected, 100_000));
    assert!(same_as_whole(
        &mut Changed(decoder(), |_: &mut ForwardBatch| ()),
        &texts,
        &[3],
        &expected,
        100_000
    ));
}

#[test]
fn edits_that_change_nothing_leave_the_bits_of_the_base_and_are_counted() {
    let (mut model, _) = ranks(&golden("tiny_llama"), 2, Dtype::F32);
    let mut texts = texts("tiny_llama");
    let add = Op::Add { source: constant("tiny_llama", Site::ResidPost, "x"), coef: 0.0, norm_match: true };
    texts[5].steps = vec![vec![edit(1, Site::ResidPost, 0, add)]; STEPS];
    let itself = Op::Replace(Source::Run { run: RunId(0), positions: vec![0] });
    texts[2] = Text {
        edits: Vec::new(),
        steps: vec![vec![edit(2, Site::MlpAct, 0, itself)]; STEPS],
        ..text_like(&texts[5])
    };
    let which = [0, 5, 2];
    prefill(&mut model, &texts, &which, 100_000);
    for i in 1..=STEPS {
        let step = step(&texts, &which, i);
        let output = model.forward(&Arc::new(step.batch)).unwrap();
        let rows: Vec<u32> = step.edited.iter().map(|row| row.run.0).collect();
        assert_eq!(rows, [1, 2], "rows edited, in the order of the pass");
        assert_eq!(output.written.len(), 2);
        assert!(output.written.iter().all(|row| row.elements > 0 && row.largest == 0.0));
        assert_eq!(output.scores[0].logits, output.scores[1].logits);
        assert_eq!(output.scores[0].logits, output.scores[2].logits);
    }
}

/// The same text with slots of its own beyond those shared.
fn text_like(text: &Text) -> Text {
    let mut slots = text.slots.clone();
    for (i, slot) in slots.iter_mut().enumerate().skip(PROMPT.len()) {
        *slot = (3 + 7 * (150 + i)) as u32 % SLOTS as u32;
    }
    Text {
        prompt: text.prompt,
        tokens: text.tokens.clone(),
        parent: text.parent,
        edits: Vec::new(),
        steps: Vec::new(),
        slots,
    }
}

#[test]
fn a_token_is_drawn_from_the_logits_of_all_ranks() {
    let mut drawn = Vec::new();
    for world in WORLDS {
        let (mut model, _) = ranks(&golden("tiny_llama"), world, Dtype::F32);
        let texts = texts("tiny_llama");
        prefill(&mut model, &texts, &[0, 1], 100_000);
        let mut step = step(&texts, &[0, 1], 1);
        let draw = |row, choice: Choice, also| Draw { row, choice, u: 0.5, also };
        let biased = Choice { bias: vec![(7, 100.0)], ..Choice::GREEDY };
        step.batch.step.as_mut().unwrap().draws = vec![
            draw(0, Choice::GREEDY, vec![1]),
            draw(1, Choice::GREEDY, Vec::new()),
            draw(1, biased, vec![0, 1]),
        ];
        let output = model.forward(&Arc::new(step.batch)).unwrap();
        let of: Vec<_> = output.drawn.iter().map(|drawn| drawn.clone().unwrap()).collect();
        for (row, drawn) in [(0, &of[0]), (1, &of[1])] {
            assert_eq!((drawn.token, drawn.logit), output.scores[row].top[0]);
        }
        assert_eq!(of[0].also, [output.scores[1].logits[of[0].token as usize]]);
        assert_eq!((of[2].token, of[2].logit), (7, output.scores[1].logits[7]), "a logit is the model's own");
        assert_eq!(of[2].also, [output.scores[0].logits[7], output.scores[1].logits[7]]);
        drawn.push(of.iter().map(|drawn| drawn.token).collect::<Vec<_>>());
    }
    assert!(drawn.iter().all(|tokens| *tokens == drawn[0]));
}

/// Asks for the divergence of each row from the first of its stretch, whose most probable token is looked up there too.
fn against_first(count: usize) -> AskedRows {
    AskedRows { kl_refs: vec![0], ..asked(count) }
}

/// The score of a row says of the reference's row what the reference's own score says, which has all logits.
fn compares(score: &Score, reference: &Score, at: &str) {
    let best = score.top[0].0 as usize;
    assert_eq!(score.top_under, [reference.logits[best]], "{at}: the logit of the most probable token");
    let logprob = |score: &Score, i: usize| f64::from(score.logits[i]) - score.log_sum_exp;
    let kl: f64 =
        (0..512).map(|i| logprob(reference, i).exp() * (logprob(reference, i) - logprob(score, i))).sum();
    assert!((score.kl[0] - kl).abs() < 1e-6, "{at}: {} is not {kl}", score.kl[0]);
}

#[test]
fn a_text_is_compared_with_another_branch_where_it_is_scored_in_any_company_on_any_ranks() {
    let texts = texts("tiny_llama");
    for (dtype, world) in [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|d| WORLDS.map(|w| (d, w))) {
        let (mut model, _) = ranks(&golden("tiny_llama"), world, dtype);
        // Text 3 beside text 0 and text 4 beside text 2; of the first pair in other company too.
        let of_pairs: Vec<Vec<Score>> = [&[0, 3][..], &[1, 0, 3], &[0, 3, 2, 4]]
            .iter()
            .map(|which| {
                prefill(&mut model, &texts, which, 100_000);
                let mut step = step(&texts, which, 1);
                step.batch.readout.asked = match which.len() {
                    2 => vec![against_first(2)],
                    3 => vec![asked(1), against_first(2)],
                    _ => vec![against_first(2), against_first(2)],
                };
                model.forward(&Arc::new(step.batch)).unwrap().scores
            })
            .collect();
        let at = format!("{dtype:?} on {world}");
        let [alone, behind, beside] = &of_pairs[..] else { unreachable!() };
        assert_eq!((&alone[..], &alone[..]), (&behind[1..], &beside[..2]), "{at}: company changes nothing");
        assert!(alone[1].kl[0] > 1e-4 && alone[1].top_under[0] != alone[1].top[0].1, "{at}: branches differ");
        for (score, reference) in [(1, 0), (3, 2)] {
            compares(&beside[score], &beside[reference], &at);
        }
        assert_eq!((beside[0].kl[0], beside[0].top_under[0]), (0.0, beside[0].top[0].1), "{at}: with itself");
    }
}

#[test]
fn many_rows_are_compared_as_few_are() {
    let (mut model, _) = ranks(&golden("tiny_llama"), 2, Dtype::F32);
    let mut plan = Plan::default();
    let root = plan.root(Arc::from(&PROMPT[..]));
    for i in 0..130_u32 {
        let source =
            Source::Constant(uniform(&format!("row {i}"), width("tiny_llama", Site::ResidPost)).into());
        let run = plan.branch(root, vec![edit(i % LAYERS, Site::ResidPost, 1, Op::add(source))]);
        (2..7).for_each(|position| {
            plan.read(run, position);
        });
    }
    scoring(&mut plan);
    plan.scoring.kl_refs = vec![0, 6];
    let together = run(&mut model, LAYERS, &plan, 100_000, Mode::Branching).scores;
    assert_eq!(together, run(&mut model, LAYERS, &plan, 60, Mode::Branching).scores);
    for score in &together {
        let of = |reference: usize| together[reference].logits[score.top[0].0 as usize];
        assert_eq!(score.top_under, [of(0), of(6)]);
    }
}

/// A text of `tests/python/make_tiny_text_golden.py`.
fn golden_text(model: &str, case: &serde_json::Value, steps: &serde_json::Value, is_base: bool) -> Text {
    let site = Site::ALL.into_iter().find(|site| case["site"] == site.name()).unwrap();
    let layer = case["layer"].as_u64().unwrap() as u32;
    let vector = uniform("text", width(model, site));
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let unit: Arc<[f32]> = vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
    let bound = |name: &str| case[name].as_f64().unwrap() as f32;
    let write = |position: u32, coef: f64| {
        let source = || Source::Constant(vector.clone().into());
        let coef = coef as f32;
        let op = match case["op"].as_str().unwrap() {
            "add" => Op::Add { source: source(), coef, norm_match: false },
            "replace" => Op::Replace(source()),
            "project_out" => Op::Project { basis: Arc::clone(&unit), source: None },
            "clamp" => {
                Op::Along { direction: Arc::clone(&unit), change: Along::Clamp(bound("min"), bound("max")) }
            }
            _ => Op::Along { direction: Arc::clone(&unit), change: Along::Scale(coef) },
        };
        edit(layer, site, position, op)
    };
    let last = PROMPT.len() as u32 - 1;
    let coefs: Vec<Option<f64>> =
        case["coefs"].as_array().unwrap().iter().map(serde_json::Value::as_f64).collect();
    let prompt = case["prompt"].as_array().unwrap().iter().map(|p| write(p.as_u64().unwrap() as u32, 1.0));
    let at_steps = coefs[1..].iter().map(|coef| coef.iter().map(|coef| write(0, *coef)).collect());
    Text {
        prompt: &PROMPT,
        tokens: steps.as_array().unwrap()[..STEPS]
            .iter()
            .map(|step| step[0].as_u64().unwrap() as u32)
            .collect(),
        parent: (!is_base).then_some(0),
        edits: prompt.chain(coefs[0].map(|coef| write(last, coef))).collect(),
        steps: at_steps.collect(),
        slots: Vec::new(),
    }
}

#[test]
fn greedy_texts_of_every_family_are_those_of_hooks_without_a_cache() {
    let golden = golden("tiny_texts");
    assert_eq!(golden["prompt"], serde_json::json!(PROMPT));
    let (mut worst, mut compared) = (0.0_f64, 0);
    for (family, texts) in golden["families"].as_object().unwrap() {
        let name = format!("tiny_{family}");
        let (cases, texts) = (golden["cases"].as_array().unwrap(), texts.as_array().unwrap());
        let all = cases.iter().zip(texts).enumerate();
        let all = placed(all.map(|(i, (case, text))| golden_text(&name, case, text, i == 0)).collect());
        let which: Vec<usize> = (0..all.len()).collect();
        let (mut model, _) = ranks(&crate::tiny::golden(&name), 1, Dtype::F32);
        let mut scores = vec![prefill(&mut model, &all, &which, 100_000)];
        for i in 1..=STEPS {
            scores.push(model.forward(&Arc::new(step(&all, &which, i).batch)).unwrap().scores);
        }
        for (i, of_step) in scores.iter().enumerate() {
            for (place, score) in of_step.iter().enumerate() {
                let (expected, at) =
                    (&texts[place][i], format!("{name}, {}, step {i}", cases[place]["name"]));
                let (token, logprob) = (expected[0].as_u64().unwrap(), expected[1].as_f64().unwrap());
                let margin = expected[2].as_f64().unwrap();
                assert!(
                    score.top1() == Some(token as u32) || margin < 1e-3,
                    "{at}: {:?}, not {token}",
                    score.top
                );
                let error = (f64::from(score.logits[token as usize]) - score.log_sum_exp - logprob).abs();
                assert!(error < 1e-4, "{at}: off by {error}");
                (worst, compared) = (worst.max(error), compared + 1);
            }
        }
    }
    println!("{compared} steps, log-probabilities within {worst:.1e}");
    assert!(compared >= 6 * 8 * (STEPS + 1), "{compared}");
}

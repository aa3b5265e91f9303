//! A block's values are the same whether its taps are deferred or read at once, to the bit; and what is deferred takes one pass.

use super::*;
use crate::fake::{Fake, LAYERS, LIMITS, WIDTH, model};
use crate::program::Op;
use crate::tensor::Budget;
use rand_mt::Mt64;

struct Block {
    heap: Heap,
    taps: Taps,
    fake: Fake,
    /// Every tap is read as soon as it is asked for: nothing is recognised, nothing waits.
    at_once: bool,
}

impl Block {
    fn new(at_once: bool, invokes: Vec<Option<Vec<Vec<u32>>>>) -> Block {
        let mut taps = Taps::new(model(), LIMITS).expect("a model");
        taps.begin(invokes).expect("a trace");
        Block {
            heap: Heap::new(Budget { bytes: 1 << 30, operations: 1 << 30 }),
            taps,
            fake: Fake::default(),
            at_once,
        }
    }

    fn tap(&mut self, invoke: usize, path: &str) -> Result<Value, Refusal> {
        let shown = self.taps.read(&mut self.heap, 0, invoke, path)?;
        let first = match &shown {
            Value::Tuple(members) => members[0].clone(),
            value => value.clone(),
        };
        if let (true, Value::Tensor(id)) = (self.at_once, &first) {
            let storage = self.heap.view(*id)?.storage;
            if self.heap.is_unread(storage) {
                self.taps.force(&mut self.heap, &mut self.fake, storage)?;
            }
        }
        Ok(first)
    }

    fn call(&mut self, name: &str, args: &[Value]) -> Result<Value, Refusal> {
        self.taps.call(&mut self.heap, &mut self.fake, name, args, &[])
    }

    fn set(&mut self, invoke: usize, path: &str, value: &Value) -> Result<(), Refusal> {
        self.taps.replace(&mut self.heap, &mut self.fake, (0, invoke), path, value)
    }

    fn close(&mut self, invoke: usize) {
        self.taps.close(&mut self.heap, 0, invoke).expect("closed");
    }

    fn constant(&mut self, shape: &[usize], numbers: &[f32]) -> Value {
        let array = crate::tensor::Array::of_f32s(Dtype::Float32, shape.to_vec(), numbers.to_vec());
        Value::Tensor(self.heap.put(array).expect("room"))
    }

    /// Numbers of each value, read in one pass.
    fn settle(&mut self, values: &[Value]) -> Vec<Vec<u32>> {
        let settled =
            self.taps.settle(&mut self.heap, &mut self.fake, Value::List(values.to_vec())).expect("settled");
        let Value::List(values) = settled else { panic!("a list") };
        let bits = |value: &Value| match value {
            Value::Tensor(id) => {
                self.heap.array(*id).expect("numbers").to_f32s().iter().map(|x| x.to_bits()).collect()
            }
            _ => Vec::new(),
        };
        values.iter().map(bits).collect()
    }
}

fn slice(start: i64, end: i64) -> Value {
    Value::Slice(Box::new([Value::Int(start), Value::Int(end), Value::None]))
}

fn all() -> Value {
    Value::Slice(Box::new([Value::None, Value::None, Value::None]))
}

fn layer(n: u32) -> String {
    format!("model.model.layers.{n}.output")
}

fn one(tokens: &[u32]) -> Vec<Option<Vec<Vec<u32>>>> {
    vec![Some(vec![tokens.to_vec()])]
}

#[test]
fn whatever_a_block_saves_is_read_in_one_pass() {
    let mut block = Block::new(false, one(&[1, 2, 3]));
    let noise = block.constant(&[1, 3, 4], &[0.5; 12]);
    let mut saved = Vec::new();
    let embed = block.tap(0, "model.model.embed_tokens.output").unwrap();
    let sum = block.call("add", &[embed.clone(), noise]).unwrap();
    block.call("setitem", &[embed, all(), sum]).unwrap();
    for n in 0..LAYERS {
        let out = block.tap(0, &layer(n)).unwrap();
        let part = block.call("getitem", &[out.clone(), Value::Tuple(vec![all(), Value::Int(-1)])]).unwrap();
        block.call("setitem", &[part.clone(), Value::Ellipsis, Value::Int(0)]).unwrap();
        saved.push(part);
    }
    saved.push(block.tap(0, "model.lm_head.output").unwrap());
    block.close(0);
    assert!(block.fake.programs.is_empty());
    block.settle(&saved);
    assert_eq!(block.fake.programs.len(), 1);
    let program = &block.fake.programs[0];
    assert_eq!(program.runs.len(), 1);
    let ops: Vec<_> = program.writes.iter().map(|write| (write.place.site.as_str(), &write.op)).collect();
    assert!(matches!(ops[0], ("embed", Op::Add(numbers)) if numbers.len() == 12));
    assert!(ops[1..].iter().all(|op| matches!(op, ("resid_post", Op::Zero))));
    assert_eq!(program.writes[1].positions, [2]);
    // only the last position of a layer was saved
    let layers = program.reads.iter().filter(|read| read.place.site == "resid_post");
    assert_eq!(layers.map(|read| &read.positions[..]).collect::<Vec<_>>(), [[2]; LAYERS as usize]);
}

#[test]
fn invokes_of_one_prompt_are_branches_of_one_run() {
    let prompt = || Some(vec![vec![1, 2, 3, 4]]);
    let mut block = Block::new(false, vec![prompt(), prompt(), prompt(), Some(vec![vec![5, 6]])]);
    let mut saved = Vec::new();
    for invoke in 0..3 {
        let out = block.tap(invoke, &layer(invoke as u32)).unwrap();
        block.call("mul_", &[out, Value::Float(2.0)]).unwrap();
        saved.push(block.tap(invoke, "model.lm_head.output").unwrap());
        block.close(invoke);
    }
    saved.push(block.tap(3, "model.lm_head.output").unwrap());
    block.close(3);
    block.settle(&saved);
    let program = &block.fake.programs[0];
    assert_eq!(program.runs.len(), 5);
    assert_eq!(program.runs.iter().filter(|run| run.parent == Some(0)).count(), 3);
    assert_eq!(block.fake.programs.len(), 1);
}

#[test]
fn shorter_prompts_are_padded_on_the_left_and_the_model_never_sees_it() {
    let mut block = Block::new(false, vec![Some(vec![vec![1, 2, 3], vec![4]])]);
    let out = block.tap(0, &layer(0)).unwrap();
    block.call("add_", &[out.clone(), Value::Int(1)]).unwrap();
    block.close(0);
    let bits = block.settle(&[out]).remove(0);
    assert_eq!(bits.len(), 2 * 3 * WIDTH);
    // zero, and what the block itself wrote there
    assert!(bits[3 * WIDTH..5 * WIDTH].iter().all(|&bits| bits == 1.0_f32.to_bits()));
    let program = &block.fake.programs[0];
    assert_eq!(program.writes[1].positions, [0]);
}

#[test]
fn a_value_of_another_invoke_at_the_same_place_is_taken_there() {
    let mut block = Block::new(false, vec![Some(vec![vec![1, 2, 3]]), Some(vec![vec![4, 5, 6]])]);
    let from = block.tap(0, &layer(1)).unwrap();
    block.close(0);
    let to = block.tap(1, &layer(1)).unwrap();
    let last = Value::Tuple(vec![all(), Value::Int(-1)]);
    let value = block.call("getitem", &[from, last.clone()]).unwrap();
    block.call("setitem", &[to, last, value]).unwrap();
    let logits = block.tap(1, "model.lm_head.output").unwrap();
    block.close(1);
    block.settle(&[logits]);
    let program = &block.fake.programs[0];
    assert_eq!(program.writes[0].op, Op::ReplaceByRun { run: 0, positions: vec![2] });
}

#[test]
fn a_place_before_the_last_one_is_out_of_order() {
    let mut block = Block::new(false, one(&[1, 2]));
    block.tap(0, &layer(2)).unwrap();
    let error = block.tap(0, &layer(1)).unwrap_err();
    assert_eq!(error.kind, "OutOfOrderError");
    assert_eq!(
        error.message,
        "'model.model.layers.1.output.i0' was requested but the model already ran past it"
    );
    assert!(block.tap(0, "model.model.layers.7.output").unwrap_err().message.contains("is not served"));
}

#[test]
fn what_replaces_a_norms_input_goes_through_the_norm_and_leaves_the_residual_stream() {
    let mut block = Block::new(false, one(&[1, 2]));
    let path = "model.model.layers.1.input_layernorm.input";
    let value = block.constant(&[1, 2, 4], &[8.0; 8]);
    block.tap(0, path).unwrap();
    block.set(0, path, &value).unwrap();
    let normed = block.tap(0, "model.model.layers.1.input_layernorm.output").unwrap();
    let logits = block.tap(0, "model.lm_head.output").unwrap();
    block.close(0);
    // what the norm of the fake makes of eights
    let bits = block.settle(&[normed, logits]).remove(0);
    assert!(bits.iter().all(|&bits| bits == 5.25_f32.to_bits()));
    let last = block.fake.programs.last().expect("a pass");
    assert!(last.writes.iter().all(|write| write.place.site == "attn_in"));
}

/// A random block: what it does is drawn, so that both ways of running it do the same.
fn random_block(seed: u64, at_once: bool) -> (Vec<Vec<u32>>, usize, Vec<String>) {
    let mut did = Vec::new();
    let mut random = Mt64::new(seed);
    let mut draw = |n: u64| random.next_u64() % n;
    let prompts = 1 + draw(3) as usize;
    let mut invokes = Vec::new();
    for _ in 0..prompts {
        let rows = 1 + usize::from(draw(4) == 0);
        let row = |draw: &mut dyn FnMut(u64) -> u64| match draw(3) {
            0 => vec![1, 2, 3],
            1 => vec![4, 5],
            _ => (0..=draw(4)).map(|_| draw(9) as u32).collect(),
        };
        invokes.push(Some((0..rows).map(|_| row(&mut draw)).collect::<Vec<Vec<u32>>>()));
    }
    let mut block = Block::new(at_once, invokes);
    let paths: Vec<String> = std::iter::once("model.model.embed_tokens.output".to_owned())
        .chain((0..LAYERS).flat_map(|n| {
            ["input", "input_layernorm.output", "self_attn.output", "mlp.output", "output"]
                .map(|part| format!("model.model.layers.{n}.{part}"))
        }))
        .chain(["model.model.norm.output".to_owned(), "model.lm_head.output".to_owned()])
        .collect();
    let mut held: Vec<Value> = Vec::new();
    for invoke in 0..prompts {
        let mut at = 0;
        let mut path = paths[0].clone();
        let mut asked = false;
        for _ in 0..4 + draw(8) {
            let pick = |held: &[Value], draw: &mut dyn FnMut(u64) -> u64| {
                held.get(draw(held.len().max(1) as u64) as usize).cloned()
            };
            match draw(12) {
                0..=2 => {
                    at = (at + draw(4) as usize).min(paths.len() - 1);
                    path.clone_from(&paths[at]);
                    asked = true;
                    held.push(block.tap(invoke, &path).unwrap());
                    did.push(format!("{:?} = {path} of {invoke}", held.last()));
                }
                3..=4 => {
                    let Some(x) = pick(&held, &mut draw) else { continue };
                    let index = match draw(4) {
                        0 => Value::Tuple(vec![all(), Value::Int(-1)]),
                        1 => Value::Tuple(vec![Value::Ellipsis, slice(1, 3)]),
                        2 => Value::Tuple(vec![all(), slice(0, 2)]),
                        _ => Value::Int(0),
                    };
                    let got = block.call("getitem", &[x.clone(), index.clone()]);
                    did.push(format!("{got:?} = {x:?}[{index:?}]"));
                    held.extend(got);
                }
                5 => {
                    let Some(x) = pick(&held, &mut draw) else { continue };
                    let op = ["zero_", "clone", "detach", "neg"][draw(4) as usize];
                    let got = block.call(op, std::slice::from_ref(&x));
                    did.push(format!("{got:?} = {op} {x:?}"));
                    held.extend(got);
                }
                6..=7 => {
                    let Some(x) = pick(&held, &mut draw) else { continue };
                    let op = ["add", "sub", "mul", "add_", "sub_", "mul_"][draw(6) as usize];
                    let number = Value::Float(draw(9) as f64 * 0.25 - 1.0);
                    let got = block.call(op, &[x.clone(), number.clone()]);
                    did.push(format!("{got:?} = {op} {x:?} {number:?}"));
                    held.extend(got);
                }
                8..=9 => {
                    let (Some(x), Some(y)) = (pick(&held, &mut draw), pick(&held, &mut draw)) else {
                        continue;
                    };
                    let op = ["setitem", "setitem", "add", "add_"][draw(4) as usize];
                    let args = if op == "setitem" { vec![x, Value::Ellipsis, y] } else { vec![x, y] };
                    let got = block.call(op, &args);
                    did.push(format!("{got:?} = {op} {args:?}"));
                    held.extend(got);
                }
                10 => {
                    let Some(x) = pick(&held, &mut draw) else { continue };
                    let array = (0..WIDTH).map(|_| draw(9) as f32 * 0.5).collect::<Vec<_>>();
                    let row = block.constant(&[WIDTH], &array);
                    did.push(format!("{x:?}[..., 0:4] = {array:?}"));
                    held.extend(
                        block.call("setitem", &[x, Value::Tuple(vec![Value::Ellipsis, slice(0, 4)]), row]),
                    );
                }
                _ => {
                    let Some(x) = pick(&held, &mut draw) else { continue };
                    if asked && at + 1 < paths.len() {
                        let set = block.set(invoke, &path, &x);
                        did.push(format!("{path} of {invoke} = {x:?}: {set:?}"));
                        held.extend(block.tap(invoke, &path));
                    }
                }
            }
        }
        block.close(invoke);
    }
    held.retain(|value| matches!(value, Value::Tensor(_)));
    let bits = block.settle(&held);
    did.push(format!("{held:?}"));
    (bits, block.fake.programs.len(), did)
}

#[test]
fn ten_thousand_random_blocks_give_the_same_bits_deferred_and_at_once() {
    let (mut deferred, mut at_once) = (0, 0);
    for seed in 0..10_000 {
        let (bits, programs, did) = random_block(seed, false);
        let (expected, more, _) = random_block(seed, true);
        let differ: Vec<usize> = (0..bits.len()).filter(|&i| bits.get(i) != expected.get(i)).collect();
        assert!(bits == expected, "block {seed}: {differ:?} of {}", did.join("\n"));
        deferred += programs;
        at_once += more;
    }
    assert!(deferred * 4 < at_once * 3, "{deferred} passes deferred, {at_once} at once");
}

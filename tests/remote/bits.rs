//! What a block does that changes nothing changes no bit, and company changes none.

use crate::client::{block_of, fetch, poll, serving, submit, tensors};
use crate::server::Server;

/// The paths that are served of a Llama, but the logits, which nothing follows.
const PATHS: [&str; 22] = [
    "model.embed_tokens.output",
    "model.layers.1.input",
    "model.layers.1.input_layernorm.input",
    "model.layers.1.input_layernorm.output",
    "model.layers.1.self_attn.input",
    "model.layers.1.self_attn.q_proj.output",
    "model.layers.1.self_attn.k_proj.output",
    "model.layers.1.self_attn.v_proj.output",
    "model.layers.1.self_attn.o_proj.input",
    "model.layers.1.self_attn.o_proj.output",
    "model.layers.1.self_attn.output",
    "model.layers.1.post_attention_layernorm.input",
    "model.layers.1.post_attention_layernorm.output",
    "model.layers.1.mlp.input",
    "model.layers.1.mlp.gate_proj.output",
    "model.layers.1.mlp.up_proj.output",
    "model.layers.1.mlp.down_proj.input",
    "model.layers.1.mlp.down_proj.output",
    "model.layers.1.mlp.output",
    "model.layers.1.output",
    "model.norm.output",
    "lm_head.input",
];

fn run(server: &Server, source: &str) -> Vec<Vec<u32>> {
    let tensors = tensors(&fetch(server, &poll(server, &submit(server, "/request", &block_of(source)))));
    tensors.into_iter().map(|tensor| tensor.into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn reading_and_writing_back_changes_no_bit_at_any_path() {
    let server = serving(&[]);
    let source = format!(
        r#"
def module(path):
    found = model
    for part in path.split(".")[:-1]:
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found
def read(path):
    value = getattr(module(path), path.rpartition(".")[2])
    return value[0] if isinstance(value, tuple) else value
def give(path, value):
    setattr(module(path), path.rpartition(".")[2], value)
paths = {PATHS:?}
kept = {{}}
with model.trace(P):
    plain = model.lm_head.output
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            kept[path] = read(path)
outs = [plain]
# As the engine scales; as another forward has it; as the same numbers, given as such, in place and as a new value; and a value
# that was looked at.
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            x = read(path)
            x *= 1.0
            outs.append(model.lm_head.output)
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            give(path, kept[path])
            outs.append(model.lm_head.output)
for path in paths:
    kept[path].sum().item()
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            read(path)[:] = kept[path]
            outs.append(model.lm_head.output)
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            give(path, kept[path].clone())
            outs.append(model.lm_head.output)
with model.trace() as tracer:
    for path in paths:
        with tracer.invoke(P):
            x = read(path)
            x[:, 1:] = x[:, 1:] if x.norm() < 0 else x[:, 1:].clone()
            outs.append(model.lm_head.output)
outs = nnsight.save(outs)
"#
    );
    let outs = run(&server, &source);
    assert_eq!(outs.len(), 1 + 5 * PATHS.len());
    for (i, out) in outs[1..].iter().enumerate() {
        assert!(*out == outs[0], "way {} at {}", i / PATHS.len(), PATHS[i % PATHS.len()]);
    }
}

#[test]
fn thirty_invokes_have_the_bits_of_thirty_traces() {
    let server = serving(&[("REMOTE__QUEUED_PER_OWNER", "100")]);
    let block = |first: usize, last: usize, with: &str| {
        format!(
            "import torch\ntorch.manual_seed(3)\nstates = torch.randn(30, 1, 17, 64)\nouts = nnsight.save([])\n\
             for i in range({first}, {last}):\n    {with}\n            h = model.model.layers[i % 3].output\n            \
             h[:, i % 17] = states[i][:, i % 17]\n            model.model.layers[3].self_attn.o_proj.input[:, -1, :16] += 1\n            \
             outs.append(model.lm_head.output)\n"
        )
    };
    let loops = "for _ in [0]:\n        with tracer.invoke(P):";
    let together =
        block(0, 30, loops).replace("for i in range(0", "with model.trace() as tracer:\n  for i in range(0");
    let together = run(&server, &together);
    assert_eq!(together.len(), 30);
    let alone = |i: usize| block(i, i + 1, "if True:\n        with model.trace(P):");
    let jobs: Vec<String> = (0..30).map(|i| submit(&server, "/request", &block_of(&alone(i)))).collect();
    for (i, (job, together)) in jobs.iter().zip(&together).enumerate() {
        let alone = &tensors(&fetch(&server, &poll(&server, job)))[0];
        assert!(alone.iter().map(|number| number.to_bits()).eq(together.iter().copied()), "invoke {i}");
    }
    // They are not the same thing thirty times.
    assert_ne!(together[0], together[1]);
}

"""The course notebook on puns: five questions, one call each."""

import mediant

lab = mediant.Client()
PUN = "Why do electricians make good swimmers? Because they know the"
LIT = "The wires carry high voltage electrical"

# 1: both contexts, and what each layer would say
both = lab.run({"pun": PUN, "literal": LIT}, target=" current", lens=True)
print(both.metric("prob:target"), both.top(3), sep="\n")
both.lens("pun").plot().savefig("lens.png")

# 2: the pun's last state in the literal prompt, layer by layer
patch = lab.patch(LIT, PUN, " current", controls=["random_vector", "self_patch"])
patch.plot().savefig("patch.png")

# 3: the causal trace
trace = lab.trace(PUN, "electricians", " current", arms=["hidden", "mlp", "attn"], samples=2, layers=range(0, 30, 6))
trace.plot().savefig("trace.png")
print(trace.top(5)[["arm", "layer", "token", "effect", "effect_se"]])

# 4: averages over puns, which this model does not get
puns = [
    {"prompt": PUN, "subject": "electricians", "target": " current"},
    {"prompt": "Why did the banker break up with his girlfriend? He lost", "subject": "banker", "target": " interest"},
    {"prompt": "What did the ocean say to the beach? Nothing, it just", "subject": "ocean", "target": " waved"},
]
arms = {name: {"site": site, "layers": [6, 18], "positions": "all"} for name, site in (("mlp", "mlp_out"), ("attn", "attn_out"))}
averages = lab.sweep(puns, arms=arms, sweep=["layers", "positions"], samples=2, keep_wrong=True)
averages.plot().savefig("averages.png")

# 5: MLP against attention, all positions at once
whole = lab.sweep(puns[:1], arms=arms, sweep=["layers"], samples=2, keep_wrong=True)
print(whole.df[["arm", "layer", "metric", "mean"]])

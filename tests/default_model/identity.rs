//! What must hold to the bit on the real weights.

use mediant::spec::kind::Traces;
use mediant::spec::patch::PatchSpec;
use serde_json::json;

use crate::support::{answered, numbers, service};

const PROMPT: &str = "The Eiffel Tower is in the city of";

#[tokio::test]
async fn patching_a_run_with_its_own_states_changes_nothing() {
    for site in ["embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"] {
        let positions = json!({"map": [[0, 0], [3, 3], [4, 5], [5, -1]]});
        let mut edit = json!({"site": site, "positions": positions, "source": {"run": "b"}});
        let mut sweep = vec!["positions"];
        if site != "embed" {
            edit["layers"] = json!([0, 13, 29]);
            sweep.push("layers");
        }
        if site == "z" {
            edit["heads"] = json!([0, 8]);
            sweep.push("heads");
        }
        let body = json!({
            "runs": {"a": PROMPT, "b": "The river has a strong water"}, "base": "a",
            "interventions": [edit], "sweep": sweep, "target": " Paris", "metrics": ["prob:target", "logit:target", "kl:b"],
            "controls": ["self_patch"], "read": {"topk": 0}});
        let answer = answered(service().answer::<PatchSpec>(body).await);
        assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0, "{site}");
        assert_eq!(answer["receipt"]["controls"]["max_abs_delta"], 0.0, "{site}");
        let effects = numbers(&answer["effects"]["logit:target"]);
        assert!(effects.iter().any(|effect| *effect != 0.0), "{site}: the patches themselves do something");
    }
}

#[tokio::test]
async fn the_self_patch_control_of_a_trace_is_zero_in_every_arm() {
    let body = json!({
        "prompt": PROMPT, "subject": "Eiffel Tower", "target": " Paris", "layers": {"from": 0, "step": 7}, "positions": [1, 3, -1],
        "arms": {"hidden": {"site": "resid_post"}, "mlp": {"site": "mlp_out", "window": 10},
                 "attn": {"site": "attn_out", "window": 10}, "heads": {"site": "z", "heads": [2, 5]}},
        "corrupt": {"samples": 2}, "controls": ["self_patch"]});
    let answer = answered(service().answer::<Traces>(body).await);
    assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0);
    assert_eq!(answer["receipt"]["controls"]["max_abs_delta"], 0.0);
}

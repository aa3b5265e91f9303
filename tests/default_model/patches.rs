//! Layer sweeps: the last position's residual stream of one prompt in another.

use mediant::spec::patch::PatchSpec;
use serde_json::json;

use crate::support::{Worst, answered, golden, number, numbers, service};

#[tokio::test]
async fn layer_sweeps_agree_with_pytorch_on_every_metric() {
    let golden = golden("smollm2_patch");
    let (mut probabilities, mut logits) = (Worst::probabilities(), Worst::logits());
    for sweep in golden["sweeps"].as_array().unwrap() {
        let body = json!({
            "base": sweep["base"], "source": sweep["source"], "target": sweep["target_id"],
            "metrics": ["prob:target", "logit:target", "rank:target", "kl:source", "kl:base"],
            "controls": ["self_patch"]});
        let answer = answered(service().answer::<PatchSpec>(body).await);
        for name in ["source", "base"] {
            let (got, expected) = (&answer["baselines"][name], &sweep[format!("{name}_scores")]);
            probabilities.see(number(&got["prob:target"]), number(&expected["prob"]), name);
            logits.see(number(&got["logit:target"]), number(&expected["logit"]), name);
            assert_eq!(number(&got["rank:target"]), number(&expected["rank"]));
        }
        let values = |metric: &str| numbers(&answer["values"][metric]);
        let (prob, logit, rank) = (values("prob:target"), values("logit:target"), values("rank:target"));
        let (to_source, to_base) = (values("kl:source"), values("kl:base"));
        let layers = sweep["layers"].as_array().unwrap();
        assert_eq!((layers.len(), prob.len()), (30, 30));
        for (layer, expected) in layers.iter().enumerate() {
            let at = format!("layer {layer} of {}", sweep["base"]);
            assert_eq!(expected["layer"], layer);
            probabilities.see(prob[layer], number(&expected["prob"]), &at);
            logits.see(logit[layer], number(&expected["logit"]), &at);
            logits.see(to_source[layer], number(&expected["kl_source"]), &at);
            logits.see(to_base[layer], number(&expected["kl_base"]), &at);
            assert_eq!(rank[layer], number(&expected["rank"]), "{at}");
        }
        assert_eq!(answer["masks"]["trivial"][29], true);
        assert_eq!(prob[29], number(&answer["baselines"]["source"]["prob:target"]));
        assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0);
    }
    probabilities.tell("P of patches", 90);
    logits.tell("logits and divergences of patches", 270);
}

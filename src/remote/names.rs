//! The name of the served model among repositories of a model hub.

#![allow(clippy::assigning_clones, reason = "short names")]

use crate::service::Served;

/// The name under which clients of a hub ask for the model: its own where that can be one of a repository, else with what
/// cannot stand in one replaced (`dummy:tiny` is `dummy-tiny`).
pub fn repo_id(served: &Served) -> String {
    let (owner, name) =
        served.name.split_once('/').map_or((None, served.name.as_str()), |(a, b)| (Some(a), b));
    let part = |text: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let text: String = text.chars().map(plain).collect();
        // As the hub's own client has it: no two of these in a row, none at an end.
        let mut text = text.replace("--", "-").replace("..", ".");
        text = text.trim_matches(['-', '.']).trim_end_matches(".git").to_owned();
        if text.is_empty() { "model".to_owned() } else { text }
    };
    owner.map_or_else(|| part(name), |owner| format!("{}/{}", part(owner), part(name)))
}

/// Whether a client means the served model by this name.
pub fn is_served(served: &Served, name: &str) -> bool {
    served.answers_to(name) || repo_id(served).eq_ignore_ascii_case(name)
}

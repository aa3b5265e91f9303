//! What the table of kinds (`kinds!` in `spec/mod.rs`) is to the server, and `POST /v1/plan`, whose body names one of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::endpoint::Endpoint;
use super::hints::{Body, Places};
use super::problem::{Problems, code};

/// Bodies of `POST /v1/trace`: one prompt, or `cases`.
#[derive(Debug, Clone, Copy)]
pub struct Traces;

/// Bodies of `POST /v1/generate` that are computed in units: of many prompts, or of one that takes long.
#[derive(Debug, Clone, Copy)]
pub struct Texts;

macro_rules! declared {
    ([] $($(#[$doc:meta])* $Kind:ident $name:ident $($body:ident)::+ => $($read:ident)::+, $how:ident;)+) => {
        /// What kind of request it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = JobKind)]
        pub enum Kind {
            $($(#[$doc])* $Kind,)+
        }

        declare! {
            /// Body of `POST /v1/plan`: one request under the name of its endpoint.
            #[derive(ToSchema)]
            #[schema(examples(json!({"trace": {"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"}})))]
            pub struct PlanBody {
                $($(#[$doc])* pub $name: Option<super::$($body)::+>,)+
            }
        }

        impl Kind {
            /// Every kind with its name.
            pub const ALL: [(&'static str, Self); [$(Self::$Kind),+].len()] = [$((stringify!($name), Self::$Kind)),+];

            /// Whether it is computed in units, each of which counts when it is done: what there is of it is a result.
            pub const fn is_in_units(self) -> bool {
                match self {
                    $(Self::$Kind => in_units!($how),)+
                }
            }
        }

        /// The bodies of all kinds, each with its fields.
        pub(super) fn places() -> Vec<(Endpoint, Places)> {
            vec![$((super::$($body)::+::AT, super::$($body)::+::places())),+]
        }
    };
}

macro_rules! in_units {
    (units) => {
        true
    };
    (once) => {
        false
    };
}

kinds!([declared] []);

/// The code of a kind: `$Experiment` stands for what its bodies are read as. What is computed in units is not answered at once.
macro_rules! of_kind {
    ($kind:expr, $Experiment:ident => $($code:tt)+) => {
        $crate::spec::kinds!([$crate::spec::kind::arms] [$kind, $Experiment => $($code)+])
    };
}

macro_rules! arms {
    ([$kind:expr, $Experiment:ident => $code:expr]
        $($(#[$doc:meta])* $Kind:ident $name:ident $($body:ident)::+ => $($read:ident)::+, $how:ident;)+
    ) => {
        match $kind {
            $($crate::spec::kind::Kind::$Kind => {
                type $Experiment = $crate::spec::$($read)::+;
                $code
            })+
        }
    };
    ([$kind:expr, $Experiment:ident => $code:expr, in_units => $in_units:expr]
        $($(#[$doc:meta])* $Kind:ident $name:ident $($body:ident)::+ => $($read:ident)::+, $how:ident;)+
    ) => {
        match $kind {
            $($crate::spec::kind::Kind::$Kind => $crate::spec::kind::arm!($how, $in_units, {
                type $Experiment = $crate::spec::$($read)::+;
                $code
            }),)+
        }
    };
}

macro_rules! arm {
    (units, $in_units:expr, $at_once:expr) => {
        $in_units
    };
    (once, $in_units:expr, $at_once:expr) => {
        $at_once
    };
}
pub(crate) use {arm, arms, of_kind};

impl Kind {
    /// Its name: in paths, on the wire and in the database.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }
}

/// Splits `{"trace": body}` into what is planned and its body.
pub fn split(mut body: Value) -> Result<(Kind, Value), Problems> {
    let fix =
        format!("write one of {}", Kind::ALL.map(|(name, _)| format!("{{\"{name}\": {{…}}}}")).join(", "));
    let mut problems = Problems::default();
    let Some(map) = body.as_object_mut() else {
        problems.push("", code::WRONG_TYPE, "the body is no object", fix);
        return Err(problems);
    };
    let mut found = None;
    for (name, inner) in map {
        let at = format!("/{}", super::read::escape(name));
        let Some(kind) = Kind::named(name) else {
            problems.push(at, code::UNKNOWN_FIELD, format!("no request is called {name:?}"), fix.as_str());
            continue;
        };
        if found.replace((kind, inner.take())).is_some() {
            problems.push(at, code::CONFLICT, "more than one request", "send one request at a time");
        }
    }
    if found.is_none() && problems.is_empty() {
        problems.push("", code::MISSING, "no request to plan", fix);
    }
    problems.or(found)
}

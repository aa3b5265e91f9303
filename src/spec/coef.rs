//! The factor of an addition, and how it moves over the steps of generated text.

use serde::Serialize;
use utoipa::ToSchema;

use super::declare::{choices, declare, need, or};
use super::problem::{Problems, code};
use super::read::Node;

/// The factor of an addition: a number, or one for each step of generated text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Coef {
    /// The same everywhere.
    Constant(f64),
    /// By step, from step 0 on; nothing is written at steps after the list.
    ByStep(Vec<f64>),
    /// From one number to another; nothing is written at other steps.
    Schedule(CoefSchedule),
}

declare! {
read
/// A factor that moves from one number to another over the steps `[a, b)`; at step b it would be there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CoefSchedule {
    /// Its value at step a.
    pub from: f64 = need("write the first step's coefficient", Node::number),
    /// Its value where the steps end.
    pub to: f64 = need("write the coefficient that it moves to", Node::number),
    /// The first step, and one past the last.
    pub over: [u32; 2] = need("write the steps as [a, b)", read_over),
    /// How it moves.
    #[schema(required = false)]
    pub shape: ScheduleShape = or(ScheduleShape::Linear, |n, out| n.choice(&ScheduleShape::ALL, &[], out)),
}
}

choices! {
/// How a coefficient moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum ScheduleShape {
    /// By equal amounts.
    Linear = "linear",
    /// All at once, in the middle.
    Step = "step",
    /// Along half a cosine: slowly, fast, slowly.
    Cosine = "cosine",
}
}

impl CoefSchedule {
    /// Its value at a step, if it has one there.
    pub fn at(&self, step: u32) -> Option<f64> {
        let [a, b] = self.over;
        if !(a..b).contains(&step) {
            return None;
        }
        let t = f64::from(step - a) / f64::from(b - a);
        let moved = match self.shape {
            ScheduleShape::Linear => t,
            ScheduleShape::Step => f64::from(u8::from(t >= 0.5)),
            ScheduleShape::Cosine => (1.0 - (std::f64::consts::PI * t).cos()) / 2.0,
        };
        Some(self.from + (self.to - self.from) * moved)
    }
}

impl Coef {
    /// One times.
    pub const ONE: Self = Self::Constant(1.0);

    /// The number, where it is the same at every step.
    pub const fn constant(&self) -> Option<f64> {
        match self {
            Self::Constant(coef) => Some(*coef),
            Self::ByStep(_) | Self::Schedule(_) => None,
        }
    }

    /// The factor at a step; none where nothing is written.
    pub fn at(&self, step: u32) -> Option<f64> {
        match self {
            Self::Constant(coef) => Some(*coef),
            Self::ByStep(list) => list.get(step as usize).copied(),
            Self::Schedule(schedule) => schedule.at(step),
        }
    }

    /// Reads a number; of generated text also a list or a schedule.
    pub(super) fn read(node: &Node<'_>, of_text: bool, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_array() && of_text => node.all(out, Node::number).map(Self::ByStep),
            v if v.is_object() && of_text => CoefSchedule::read(node, out).map(Self::Schedule),
            v if v.is_array() || v.is_object() => {
                if v.is_object() {
                    CoefSchedule::read(node, out)?;
                }
                let detail = "a coefficient by step is for generated text";
                out.push(
                    &node.at,
                    code::NOT_SUPPORTED,
                    detail,
                    "write a number, or send it to POST /v1/generate",
                );
                None
            }
            _ => node.number(out).map(Self::Constant),
        }
    }
}

fn read_over(node: &Node<'_>, out: &mut Problems) -> Option<[u32; 2]> {
    let [a, b] = node.pair(out)?;
    match (u32::try_from(a), u32::try_from(b)) {
        (Ok(a), Ok(b)) if a < b => Some([a, b]),
        _ => {
            let detail = format!("[{a}, {b}) holds no step");
            out.push(&node.at, code::EMPTY, detail, "steps count from 0, and the end stands above the start");
            None
        }
    }
}

//! What a clean run is expected to answer.

use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{OneOfBuilder, SchemaType};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::metric::TARGET;
use super::problem::{Problems, code};
use super::read::Node;

/// The target that the clean run should rank first, or none (`false`): its most probable token begins a member of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(pub Option<String>);

impl Expected {
    /// Nothing is expected.
    pub const NOTHING: Self = Self(None);

    /// Reads a target's name or `false`.
    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value.as_bool() {
            Some(false) => Some(Self::NOTHING),
            Some(true) => {
                let fix = format!("write the target's name, \"{TARGET}\"");
                out.push(&node.at, code::WRONG_TYPE, "it is not said which target is expected", fix);
                None
            }
            None if node.value.is_string() => node.name(out).map(|name| Self(Some(name))),
            None => {
                node.wrong("the name of a target, or false", out);
                None
            }
        }
    }

    /// The target's name.
    pub fn target(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Default for Expected {
    /// What a case is about (ROME traces what the model answers as expected).
    fn default() -> Self {
        Self(Some(TARGET.to_owned()))
    }
}

impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_bool(false),
        }
    }
}

impl PartialSchema for Expected {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new().schema_type(Type::String).description(Some("A target's name."));
        let nothing = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Boolean))
            .enum_values(Some([false]))
            .description(Some("Nothing is expected."));
        let about = "The target that the clean run should rank first, or none: its most probable token begins a member of the \
                     target.";
        OneOfBuilder::new().item(name).item(nothing).description(Some(about)).into()
    }
}

impl ToSchema for Expected {}

//! `config.json` key by key: what is wrong names the key as the file has it.

use serde_json::{Map, Value};

/// A JSON object whose faults become errors that name the key.
pub struct Keys<'a> {
    pub(super) map: &'a Map<String, Value>,
    prefix: &'static str,
    /// Common names and the family's own.
    renamed: &'static [(&'static str, &'static str)],
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// It must be stated.
    Missing {
        /// As the file would have it.
        key: String,
        /// What to write.
        hint: &'static str,
    },
    /// Its value makes no model that is understood.
    NotUnderstood {
        /// As the file has it.
        key: String,
        /// Its value.
        got: String,
        /// What is wrong.
        why: String,
    },
}

impl<'a> Keys<'a> {
    pub(crate) fn new(
        map: &'a Map<String, Value>,
        renamed: &'static [(&'static str, &'static str)],
    ) -> Keys<'a> {
        Keys { map, prefix: "", renamed }
    }

    /// The object at a key of this one; its keys are called the same in all families.
    pub(super) fn inner(map: &'a Map<String, Value>, prefix: &'static str) -> Keys<'a> {
        Keys { map, prefix, renamed: &[] }
    }

    /// What the file calls a key.
    fn own<'k>(&self, key: &'k str) -> &'k str {
        self.renamed.iter().find(|(common, _)| *common == key).map_or(key, |(_, own)| own)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(self.own(key))
    }

    pub(crate) fn present(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !v.is_null())
    }

    /// `None` if the key is absent or null.
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, KeyFault> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                read(value).map(Some).ok_or_else(|| self.not_understood(key, "it is of another type"))
            }
        }
    }

    pub(crate) fn required<T>(
        &self,
        key: &str,
        hint: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, KeyFault> {
        self.optional(key, read)?.ok_or_else(|| self.missing(key, hint))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, KeyFault> {
        self.required(key, "", Value::as_u64).map(|n| n as usize)
    }

    pub(super) fn table(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, KeyFault> {
        self.optional(key, Value::as_object)
    }

    /// Refuses a switch that is on.
    pub(super) fn refuse_if_true(&self, key: &str, why: &str) -> Result<(), KeyFault> {
        match self.optional(key, Value::as_bool)? {
            Some(true) => Err(self.not_understood(key, why)),
            _ => Ok(()),
        }
    }

    pub(super) fn missing(&self, key: &str, hint: &'static str) -> KeyFault {
        KeyFault::Missing { key: format!("{}{}", self.prefix, self.own(key)), hint }
    }

    pub(crate) fn not_understood(&self, key: &str, why: &str) -> KeyFault {
        let got = self.get(key).map_or_else(|| "(absent)".to_owned(), Value::to_string);
        KeyFault::NotUnderstood { key: format!("{}{}", self.prefix, self.own(key)), got, why: why.to_owned() }
    }
}

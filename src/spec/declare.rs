//! An object of a request is declared once: a struct whose documentation and types are its schema, and whose fields' names are
//! those that the reader lets in. Simple objects also say how each field is read.

use serde::Serializer;

use super::problem::Problems;
use super::read::{Fields, Node};

pub use super::read::Declared;

/// Declares an object: the struct as it is written, and [`Declared`] from it. The fields of a part marked `flat` stand among the
/// object's own; one marked `skip` is none of the wire.
///
/// With `read` before it, each field says how it is read (`= or(default, reader)`, `= need(fix, reader)`, `= maybe(reader)`), and the
/// object has `read` and `from_fields`.
macro_rules! declare {
    (read $(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$of:meta])* $seen:vis $field:ident: $type:ty = $read:expr,)+
    }) => {
        declare! { $(#[$meta])* $vis struct $name { $($(#[$of])* $seen $field: $type,)+ } }
        impl $name {
            /// Reads the object.
            pub(in $crate::spec) fn read(
                node: &$crate::spec::read::Node<'_>,
                out: &mut $crate::spec::problem::Problems,
            ) -> Option<Self> {
                Self::from_fields(&node.fields_of::<Self>(out)?, out)
            }

            /// Reads its fields, each of which is looked at.
            fn from_fields(
                fields: &$crate::spec::read::Fields<'_>,
                out: &mut $crate::spec::problem::Problems,
            ) -> Option<Self> {
                $(let $field = $read(fields, $crate::spec::declare::plain(stringify!($field)), out);)+
                Some(Self { $($field: $field?),+ })
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($body:tt)* }) => {
        declare!(@next [$(#[$meta])* $vis struct $name] $name [] [] $($body)*);
    };
    (@next $head:tt $name:ident [$($done:tt)*] [$($names:expr,)*]
        $(#[$of:meta])* flat $seen:vis $field:ident: $type:ty, $($rest:tt)*
    ) => {
        declare!(@next $head $name [$($done)* #[serde(flatten)] $(#[$of])* $seen $field: $type,]
            [$($names,)* <$type as $crate::spec::declare::Declared>::FIELDS,] $($rest)*);
    };
    (@next $head:tt $name:ident [$($done:tt)*] [$($names:expr,)*]
        $(#[$of:meta])* skip $seen:vis $field:ident: $type:ty, $($rest:tt)*
    ) => {
        declare!(@next $head $name [$($done)* #[serde(skip)] $(#[$of])* $seen $field: $type,] [$($names,)*] $($rest)*);
    };
    (@next $head:tt $name:ident [$($done:tt)*] [$($names:expr,)*]
        $(#[$of:meta])* $seen:vis $field:ident: $type:ty, $($rest:tt)*
    ) => {
        declare!(@next $head $name [$($done)* $(#[$of])* $seen $field: $type,]
            [$($names,)* &[$crate::spec::declare::plain(stringify!($field))],] $($rest)*);
    };
    (@next [$($head:tt)*] $name:ident [$($done:tt)*] [$($names:expr,)*]) => {
        $($head)* { $($done)* }
        impl $crate::spec::declare::Declared for $name {
            const FIELDS: &'static [&'static str] = $crate::spec::declare::names!($($names),*);
        }
    };
}

/// Declares an enumeration whose values are words: the wire's name of each, said once, and from it `ALL` and `name`.
macro_rules! choices {
    ($(#[$meta:meta])* $vis:vis enum $Name:ident { $($(#[$of:meta])* $Value:ident = $name:tt,)+ }) => {
        $(#[$meta])*
        $vis enum $Name {
            $($(#[$of])* #[serde(rename = $name)] $Value,)+
        }

        impl $Name {
            /// Every value with its name, in order.
            $vis const ALL: [(&'static str, Self); [$($name),+].len()] = [$(($name, Self::$Value)),+];

            /// Its name.
            $vis const fn name(self) -> &'static str {
                Self::ALL[self as usize].0
            }
        }
    };
}

/// Lists of names put together, as a constant.
macro_rules! names {
    ($($names:expr),* $(,)?) => {{
        const PARTS: &[&[&str]] = &[$($names),*];
        const LEN: usize = $crate::spec::declare::total(PARTS);
        const ALL: [&str; LEN] = $crate::spec::declare::joined::<LEN>(PARTS);
        &ALL
    }};
}

pub(crate) use choices;
pub(super) use {declare, names};

/// How many names there are.
pub(super) const fn total(parts: &[&[&str]]) -> usize {
    let (mut len, mut i) = (0, 0);
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len
}

/// All names in one list.
pub(super) const fn joined<const N: usize>(parts: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut at, mut i) = (0, 0);
    while i < parts.len() {
        let mut j = 0;
        while j < parts[i].len() {
            all[at] = parts[i][j];
            (at, j) = (at + 1, j + 1);
        }
        i += 1;
    }
    all
}

/// A field's name on the wire: `async` for `r#async`.
pub(super) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Reads a field that has a default.
pub(super) fn or<'a, T>(
    default: T,
    read: impl Fn(&Node<'a>, &mut Problems) -> Option<T>,
) -> impl FnOnce(&Fields<'a>, &'static str, &mut Problems) -> Option<T> {
    move |fields, name, out| fields.get(name).map_or(Some(default), |node| read(&node, out))
}

/// Reads a field that must be there.
pub(super) fn need<'a, T>(
    fix: &'static str,
    read: impl Fn(&Node<'a>, &mut Problems) -> Option<T>,
) -> impl FnOnce(&Fields<'a>, &'static str, &mut Problems) -> Option<T> {
    move |fields, name, out| fields.need(name, fix, out).and_then(|node| read(&node, out))
}

/// Reads a field that may be left out.
pub(super) fn maybe<'a, T>(
    read: impl Fn(&Node<'a>, &mut Problems) -> Option<T>,
) -> impl FnOnce(&Fields<'a>, &'static str, &mut Problems) -> Option<Option<T>> {
    move |fields, name, out| fields.get(name).map_or(Some(None), |node| read(&node, out).map(Some))
}

/// Whether a field is left out of what is told of a request: always, where the request is written out without it.
pub(super) const fn of_request<T>(_: &T) -> bool {
    true
}

/// Writes such a field, which never happens.
pub(super) fn nothing<T, S: Serializer>(_: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_unit()
}

//! The store of jobs and datasets: the same tests on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]
#![allow(clippy::print_stdout, reason = "what is left out, and what is measured, is said")]
#![allow(clippy::assigning_clones, reason = "plainer")]

/// `both! { name: function }`: tests of a function that takes a [`support::Db`], one on each database.
macro_rules! both {
    ($($(#[$mark:meta])* async fn $name:ident($db:ident: Db) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                async fn on($db: Db) $body

                #[test]
                $(#[$mark])*
                fn sqlite() {
                    $crate::support::run(Db::sqlite(), on);
                }

                #[test]
                $(#[$mark])*
                fn postgres() {
                    if let Some(db) = Db::postgres() {
                        $crate::support::run(db, on);
                    }
                }
            }
        )*
    };
}

#[path = "../shared/postgres.rs"]
mod server;
mod support;

mod claims;
mod faults;
mod keys;
mod lifecycle;
mod processes;
mod random;
mod speed;
mod submissions;

//! The URL of a database, whose password is for the database alone.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;

/// `postgres://USER:PASSWORD@HOST/DATABASE`, or empty. Shown anywhere, it has `***` for its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole URL: for connecting, never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is wrong with it, if something is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let schemes = ["postgres://", "postgresql://"];
        if self.0.is_empty() {
            None
        } else if !schemes.iter().any(|scheme| self.0.starts_with(scheme)) {
            Some("is not a URL of PostgreSQL")
        } else if self.0.parse::<PgConnectOptions>().is_err() {
            // Why is not said: the parser quotes what it reads.
            Some("cannot be read")
        } else {
            None
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            // Not a URL; whatever it is, it may be a secret in the wrong place.
            return f.write_str(if self.0.is_empty() { "" } else { "***" });
        };
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        // A password may have an unescaped `@` or `/` in it: what is after the last `@` is the host.
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        write!(f, "{scheme}://")?;
        if let Some(user) = user {
            let (name, secret) = user.split_once(':').map_or((user, ""), |(name, _)| (name, ":***"));
            write!(f, "{name}{secret}@")?;
        }
        f.write_str(host)?;
        for (i, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            let pair = if pair.starts_with("password=") { "password=***" } else { pair };
            write!(f, "{}{pair}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// As it is shown: a configuration is written only to be read by people.
impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("", ""),
            ("hunter2", "***"),
            ("postgres://me:hunter2@db/lab", "postgres://me:***@db/lab"),
            ("postgres://me:hunter2/@x@db:5432/lab", "postgres://me:***@db:5432/lab"),
            ("postgres://me@db/lab", "postgres://me@db/lab"),
            ("postgres:///lab?host=/run&password=hunter2", "postgres:///lab?host=/run&password=***"),
        ] {
            let url = DatabaseUrl(url.to_owned());
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hunter2"));
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
        }
    }

    #[test]
    fn only_urls_of_postgresql_will_do() {
        let fault = |url: &str| DatabaseUrl(url.to_owned()).fault();
        assert_eq!(fault(""), None);
        assert_eq!(fault("postgres://me:pw@db:5432/lab"), None);
        assert_eq!(fault("postgresql://me@localhost/lab?host=/var/run/postgresql"), None);
        assert!(fault("mysql://me@db/lab").is_some());
        assert!(fault("jobs.sqlite").is_some());
        assert!(fault("postgres://me@db:port/lab").is_some());
        assert_eq!(fault("postgres://me@db/lab?sslmode=verify-full&sslrootcert=/etc/lab/ca.pem"), None);
        assert!(fault("postgres://me@db/lab?sslmode=perhaps").is_some());
    }
}

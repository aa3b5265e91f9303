//! TLS of the server's own: a certificate and its key from two files, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::parse_x509_certificate;

use crate::config::Http;
use crate::telemetry::metrics::Metrics;

/// First byte of every TLS connection: the kind of record that greets.
pub(super) const HANDSHAKE: u8 = 0x16;
/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Handshakes at once: each costs a signature.
const HANDSHAKES: usize = 64;
/// From when on the log says that a certificate is about to end.
const SOON: Duration = Duration::from_hours(14 * 24);

/// The server's certificate, as it is now.
#[derive(Debug, Clone)]
pub struct Tls {
    now: watch::Receiver<Pair>,
    handshakes: Arc<Semaphore>,
}

/// A certificate that fits its key.
#[derive(Debug, Clone)]
struct Pair {
    config: Arc<ServerConfig>,
    /// End of the certificate, seconds of the Unix epoch.
    ends_s: i64,
}

/// What the two files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Reads the files of a [`Tls`] again, for as long as it lives.
#[derive(Debug)]
pub struct Keeper {
    paths: [PathBuf; 2],
    seen: Files,
    now: watch::Sender<Pair>,
}

impl Tls {
    /// From the files that a configuration names; `None` if it names none.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or the key is of another certificate.
    pub fn open(http: &Http) -> anyhow::Result<Option<(Self, Keeper)>> {
        if http.tls_cert.is_empty() {
            return Ok(None);
        }
        let paths = [&http.tls_cert, &http.tls_key].map(PathBuf::from);
        let seen = Files::read(&paths)?;
        let now = watch::Sender::new(seen.pair()?);
        let tls = Self { now: now.subscribe(), handshakes: Arc::new(Semaphore::new(HANDSHAKES)) };
        Ok(Some((tls, Keeper { paths, seen, now })))
    }

    /// Greets a client. Its own fault (other versions, a wrong name, silence) is no concern of the server.
    pub(super) async fn greet<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _one = self.handshakes.acquire().await.map_err(std::io::Error::other)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.now.borrow().config));
        acceptor.accept(stream).await
    }
}

impl Keeper {
    /// Looks at the files until nobody serves with them any more. A pair that will not do leaves the old one in force: a renewal
    /// that is half written is seen again ten seconds later.
    pub async fn keep(mut self, metrics: Arc<Metrics>) {
        self.tell(&metrics);
        while !self.now.is_closed() {
            sleep(LOOK_AGAIN).await;
            self.look().await;
            metrics.certificate_ends(self.now.borrow().ends_s);
        }
    }

    async fn look(&mut self) {
        let paths = self.paths.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&paths)).await;
        let renewed = match read {
            Ok(Ok(files)) if files == self.seen => return,
            Ok(Ok(files)) => {
                self.seen = files;
                self.seen.pair()
            }
            Ok(Err(error)) => Err(error),
            Err(panicked) => Err(panicked.into()),
        };
        match renewed {
            Ok(pair) => {
                tracing::info!("the certificate was renewed");
                self.now.send_replace(pair);
            }
            Err(error) => tracing::error!("the certificate stays as it was: {error:#}"),
        }
    }

    fn tell(&self, metrics: &Metrics) {
        let ends_s = self.now.borrow().ends_s;
        metrics.certificate_ends(ends_s);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left_s = ends_s - now.as_secs() as i64;
        if left_s < SOON.as_secs() as i64 {
            let days = left_s / (24 * 3600);
            tracing::warn!(
                days,
                "the certificate of http.tls_cert ends in {days} days; replace the file, the server reads it again"
            );
        }
    }
}

impl Files {
    fn read(paths: &[PathBuf; 2]) -> anyhow::Result<Self> {
        let read = |setting: &str, path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {setting} ({})", path.display()))
        };
        let [certificate, key] = paths;
        Ok(Self { certificate: read("http.tls_cert", certificate)?, key: read("http.tls_key", key)? })
    }

    fn pair(&self) -> anyhow::Result<Pair> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .context("http.tls_cert is not a file of certificates in PEM")?;
        let first = chain.first().context("http.tls_cert holds no certificate in PEM")?;
        let (rest, leaf) =
            parse_x509_certificate(first).context("the first certificate of http.tls_cert cannot be read")?;
        ensure!(rest.is_empty(), "the first certificate of http.tls_cert has bytes behind its end");
        let ends_s = leaf.validity().not_after.timestamp();
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).context("http.tls_key holds no private key in PEM")?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("this build of TLS has no version that is safe")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("http.tls_cert and http.tls_key do not make a pair")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Pair { config: Arc::new(config), ends_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new pair that ends on the first day of `year`.
    fn write(paths: &[PathBuf; 2], year: i32) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(year, 1, 1);
        std::fs::write(&paths[0], wanted.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    }

    fn opened(folder: &Path) -> anyhow::Result<(Tls, Keeper)> {
        let mut http = crate::config::load(None, [], &[]).unwrap().config.http;
        http.tls_cert = folder.join("cert.pem").display().to_string();
        http.tls_key = folder.join("key.pem").display().to_string();
        Ok(Tls::open(&http)?.unwrap())
    }

    #[tokio::test]
    async fn files_that_change_are_in_force_if_they_fit() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        write(&paths, 2040);
        let (tls, mut keeper) = opened(folder.path()).unwrap();
        let ends = || tls.now.borrow().ends_s;
        let first = ends();
        assert_eq!(first, rcgen::date_time_ymd(2040, 1, 1).unix_timestamp());
        keeper.look().await;
        assert_eq!(ends(), first);
        // The renewal is half written.
        let old_key = std::fs::read(&paths[1]).unwrap();
        write(&paths, 2041);
        let new_key = std::fs::read(&paths[1]).unwrap();
        for key in [old_key, b"nothing".to_vec()] {
            std::fs::write(&paths[1], key).unwrap();
            keeper.look().await;
            assert_eq!(ends(), first, "the old pair stays");
        }
        std::fs::remove_file(&paths[1]).unwrap();
        keeper.look().await;
        assert_eq!(ends(), first);
        std::fs::write(&paths[1], new_key).unwrap();
        keeper.look().await;
        assert_eq!(ends(), rcgen::date_time_ymd(2041, 1, 1).unix_timestamp());
    }

    #[test]
    fn what_is_no_pair_is_refused_with_the_setting() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let refused = || format!("{:#}", opened(folder.path()).unwrap_err());
        assert!(refused().contains("http.tls_cert"), "no file");
        write(&paths, 2040);
        let (certificate, key) = (std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
        write(&paths, 2040);
        std::fs::write(&paths[0], &certificate).unwrap();
        assert!(refused().contains("do not make a pair"), "{}", refused());
        std::fs::write(&paths[0], &key).unwrap();
        assert!(refused().contains("http.tls_cert holds no certificate"), "{}", refused());
        std::fs::write(&paths[0], &certificate).unwrap();
        std::fs::write(&paths[1], &certificate).unwrap();
        assert!(refused().contains("http.tls_key holds no private key"), "{}", refused());
    }
}

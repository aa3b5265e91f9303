//! Wiring: the listener first, then the model, then an orderly end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::capacity::Capacity;
use crate::config::Config;
use crate::engine::Keeper;
use crate::http::listen::{self, Ended, Phase};
use crate::http::tls::Tls;
use crate::http::{self, Access, AppState, Readiness};
use crate::jobs::runner::Runner;
use crate::jobs::{Jobs, start};
use crate::keys::Keys;
use crate::remote::Remote;
use crate::service::{self, Service};
use crate::store::Store;
use crate::usage;

/// Threads of the async runtime. It only moves bytes; the model's arithmetic has its own threads.
const RUNTIME_THREADS: usize = 2;
/// How long the process waits, at its end, for work that cannot be interrupted (a model half loaded).
const ABANDON_AFTER: Duration = Duration::from_millis(200);

/// The running server as a [`Guest`] sees it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where it listens.
    pub address: SocketAddr,
    phase: watch::Receiver<Phase>,
}

impl Host {
    /// Waits until a signal has told the server to stop.
    pub async fn stopping(&mut self) {
        if self.phase.wait_for(|now| *now != Phase::Run).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What runs beside the server in its process, as a client of it. The server ends when this does; on a signal it is up
/// to the guest to end in time ([`Host::stopping`]).
pub type Guest = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Serves the configured model until a signal, with an engine process that ends when this returns.
///
/// # Errors
/// As [`run`].
pub fn serve(config: Config) -> anyhow::Result<()> {
    serve_beside(config, |_| Box::pin(std::future::pending()))
}

/// [`serve`] until `guest` is done, too.
///
/// # Errors
/// As [`run_beside`].
pub fn serve_beside(config: Config, guest: impl FnOnce(Host) -> Guest) -> anyhow::Result<()> {
    let keeper = Keeper::default();
    let keeps = keeper.clone();
    let result = run_beside(
        config,
        move |state| state.install(service::start::supervised(&state.config, &keeps)?),
        guest,
    );
    // Also of an engine that is still loading.
    keeper.stop();
    result
}

/// Serves what `load` makes until a signal.
///
/// The listener is bound before `load` starts on a thread of its own, so liveness is answered, and readiness denied,
/// while a model is fetched for minutes. `load` puts what it made where the handlers find it, in the [`AppState`].
///
/// # Errors
/// The address cannot be bound, `load` fails, or a second signal cut requests off.
pub fn run<L>(config: Config, load: L) -> anyhow::Result<()>
where
    L: FnOnce(&AppState) -> anyhow::Result<()> + Send + 'static,
{
    run_beside(config, load, |_| Box::pin(std::future::pending()))
}

/// [`run`] until `guest` is done, too. The guest starts as soon as the address is bound, before the model is loaded.
///
/// # Errors
/// As [`run`], and the guest's.
pub fn run_beside<L, G>(config: Config, load: L, guest: G) -> anyhow::Result<()>
where
    L: FnOnce(&AppState) -> anyhow::Result<()> + Send + 'static,
    G: FnOnce(Host) -> Guest,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(listen_and_load(config, load, guest));
    runtime.shutdown_timeout(ABANDON_AFTER);
    result
}

async fn listen_and_load<L, G>(config: Config, load: L, guest: G) -> anyhow::Result<()>
where
    L: FnOnce(&AppState) -> anyhow::Result<()> + Send + 'static,
    G: FnOnce(Host) -> Guest,
{
    let listener = bind("http.listen", &config.http.listen).await?;
    let metrics = match config.telemetry.metrics_listen.as_str() {
        "" => None,
        address => Some(bind("telemetry.metrics_listen", address).await?),
    };
    let address = listener.local_addr().context("cannot read the bound address")?;
    let Some(needs_key) = config.auth.needs_key(address.ip()) else {
        bail!(
            "auth.keys is \"off\", but others than this machine can reach {address}; set auth.keys = \"on\", listen on \
             127.0.0.1, or say auth.public_without_keys = true if whatever lies before the server keeps strangers out"
        );
    };
    let limits = listen::Limits::from(&config.http);
    let (tls, certificate) = Tls::open(&config.http)?.unzip();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (readiness, ready) = watch::channel(Readiness::Loading);
    let phase = watch::Sender::new(Phase::Run);
    let service: Arc<OnceLock<Service>> = Arc::default();
    let jobs = start::jobs(&config, &service).await.context("cannot open the job store")?;
    let runner = Runner::start(&jobs);
    let access = access(needs_key, &jobs).await?;
    let keeper = match &access {
        Access::Keys(keys) => Some((keys.clone(), [keys.keep(), settle(jobs.store.clone(), &service)])),
        Access::Anyone => None,
    };
    let jobs = Arc::new(OnceLock::from(jobs));
    let remote = Remote::new(&config.remote, config.store.data_dir().join("remote"));
    let capacity = Capacity::new(config.limits.memory_bytes);
    let config = Arc::new(config);
    let state = AppState {
        results: http::Results::new(config.results),
        streams: http::Streams::default(),
        config,
        readiness: ready,
        service: Arc::clone(&service),
        jobs: Arc::clone(&jobs),
        capacity,
        access,
        metrics: Arc::default(),
        remote: remote.clone(),
    };

    tokio::spawn(on_signals(readiness.clone(), phase.clone())?);
    tracing::info!(%address, "listening on {scheme}://{address}");
    if let Some(certificate) = certificate {
        tokio::spawn(certificate.keep(Arc::clone(&state.metrics)));
    }
    if let Some(listener) = metrics {
        let address = listener.local_addr().context("cannot read the bound address")?;
        tracing::info!(%address, "metrics on http://{address}/metrics");
        // It ends with the process: nobody waits for what it answers.
        tokio::spawn(listen::serve(
            listener,
            None,
            http::operations(state.clone()),
            limits,
            phase.subscribe(),
        ));
    }
    let router = http::router(state.clone());
    let serving = listen::serve(listener, tls, router, limits, phase.subscribe());
    let mut serving = std::pin::pin!(serving);
    let loading = tokio::task::spawn_blocking(move || load(&state));
    let (loaded, begun) = (Arc::clone(&service), remote.clone());
    let guest = tokio::spawn(guest(Host { address, phase: phase.subscribe() }));
    let guest_done = async {
        if let Err(error) = loading.await.context("loading panicked").and_then(|loaded| loaded) {
            readiness.send_replace(Readiness::Failed(format!("{error:#}")));
            return Err(error.context("cannot serve the model"));
        }
        let became_ready = readiness.send_if_modified(|now| {
            let loading = *now == Readiness::Loading;
            if loading {
                *now = Readiness::Ready;
            }
            loading
        });
        if became_ready {
            tracing::info!("ready");
        }
        if let Some(service) = loaded.get() {
            begun.start(service).await;
        }
        guest.await.context("a task panicked")?
    };
    let mut signalled = phase.subscribe();
    let drained = async move {
        // A closed channel: the server has ended by itself.
        let _ = signalled.wait_for(|now| *now != Phase::Run).await;
        runner.stop().await;
    };
    let drained = tokio::spawn(drained);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        done = guest_done => {
            done?;
            readiness.send_replace(Readiness::Draining);
            phase.send_if_modified(|now| std::mem::replace(now, (*now).max(Phase::Drain)) < Phase::Drain);
            serving.await
        }
    };
    // Units on their way end before the engine does.
    phase.send_if_modified(|now| std::mem::replace(now, (*now).max(Phase::Drain)) < Phase::Drain);
    if drained.await.is_err() {
        tracing::error!("stopping the job runner failed");
    }
    remote.stop();
    if let Some((keys, keepers)) = keeper {
        keepers.iter().for_each(JoinHandle::abort);
        keys.tell_use().await;
        if let (Some(service), Some(jobs)) = (service.get(), jobs.get())
            && let Err(error) = service.ledger.settle(&jobs.store).await
        {
            tracing::warn!("what owners used last was not stored: {error}");
        }
    }
    if let Some(jobs) = jobs.get()
        && let Err(error) = jobs.store.close().await
    {
        tracing::warn!("the job store was not closed: {error}");
    }
    match ended {
        Ended::Drained => {
            tracing::info!("stopped; every request in flight was answered");
            Ok(())
        }
        Ended::Cut(n) if *phase.borrow() == Phase::Stop => {
            bail!("stopped by a second signal with {n} connections open")
        }
        Ended::Cut(n) => {
            tracing::warn!(
                connections = n,
                "stopped; {n} connections outlived the grace period and were cut"
            );
            Ok(())
        }
    }
}

/// Who may ask.
async fn access(needs_key: bool, jobs: &Jobs) -> anyhow::Result<Access> {
    if !needs_key {
        return Ok(Access::Anyone);
    }
    let keys = Keys::open(jobs.store.clone()).await.context("cannot read the keys")?;
    if keys.is_empty() {
        tracing::warn!(
            "requests need a key, and there is none: all answer 401; `mediant key create` makes the first (with SQLite, \
             while this server is stopped)"
        );
    }
    Ok(Access::Keys(keys))
}

/// Stores what owners use, until aborted; nothing is used before there is a model.
fn settle(store: Store, service: &Arc<OnceLock<Service>>) -> JoinHandle<()> {
    let service = Arc::clone(service);
    tokio::spawn(usage::keep(store, move || service.get().map(|service| service.ledger.clone())))
}

async fn bind(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; if it is in use, choose another as {setting} (port 0 picks a free one)")
    })
}

/// First signal: not ready, drain. Second: stop.
///
/// The handlers are installed before this returns, so that no signal is lost between the first log line and here.
fn on_signals(
    readiness: watch::Sender<Readiness>,
    phase: watch::Sender<Phase>,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = Signals::install().context("cannot handle signals")?;
    Ok(async move {
        let name = signals.next().await;
        tracing::info!("{name}: draining; a second signal stops at once");
        readiness.send_replace(Readiness::Draining);
        phase.send_replace(Phase::Drain);
        let name = signals.next().await;
        tracing::warn!("{name} again: stopping now");
        phase.send_replace(Phase::Stop);
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
    fn install() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "ctrl-c",
            Err(_) => std::future::pending().await,
        }
    }
}

//! The accept loop: HTTP/1.1 with a limit on everything a client can drag out, and an orderly end.
//!
//! `axum::serve` has no time-outs at all, and hyper's header time-out alone leaves slow bodies and slow readers open.
//! Limited here: silence after connecting, the head, writes that stall, connections at once. The body's time is
//! limited where it is read ([`super::JsonBody`]).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::ServiceExt;

use super::stall::StallLimited;
use crate::config::Http;

/// Longest request head; longer ones answer 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most header fields; more answer 431.
const MAX_HEADER_FIELDS: usize = 64;
/// Silence after connecting that is allowed when no place is free.
const UNDER_PRESSURE: Duration = Duration::from_millis(50);

/// What a client may drag out.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence after connecting.
    pub first_byte: Duration,
    /// Time for a complete head, and of keep-alive idleness.
    pub head: Duration,
    /// Time without the client taking a byte of its response.
    pub write_stall: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Time for requests in flight once draining.
    pub grace: Duration,
}

impl From<&Http> for Limits {
    fn from(http: &Http) -> Self {
        Self {
            first_byte: http.first_byte_timeout(),
            head: http.header_timeout(),
            write_stall: http.write_timeout(),
            connections: http.max_connections,
            grace: http.shutdown_grace(),
        }
    }
}

/// What the server is told to do; only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Run,
    /// Finish what is in flight, then end.
    Drain,
    /// End now.
    Stop,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request in flight was answered.
    Drained,
    /// This many connections were cut, because the grace period ran out or [`Phase::Stop`] came.
    Cut(usize),
}

/// The client's address, in the extensions of every request that came through a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Serves `router` until `phase` leaves [`Phase::Run`] and what was in flight is done.
///
/// While draining it keeps accepting as long as a request is in flight, so that `/readyz` can say so; the router
/// refuses new work by itself ([`super::Readiness::Draining`]).
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    phase: watch::Receiver<Phase>,
) -> Ended {
    let server = Server {
        router,
        limits,
        permits: Arc::new(Semaphore::new(limits.connections)),
        pressure: watch::Sender::new(0),
        in_flight: watch::Sender::new(0),
        closing: watch::Sender::new(false),
    };
    server.run(listener, phase).await
}

struct Server {
    router: Router,
    limits: Limits,
    permits: Arc<Semaphore>,
    /// Bumped when no permit is free: connections that have not sent a byte give way.
    pressure: watch::Sender<u64>,
    /// Requests whose handler has not returned.
    in_flight: watch::Sender<usize>,
    /// Set when connections are to close as soon as they are idle.
    closing: watch::Sender<bool>,
}

impl Server {
    async fn run(self, listener: TcpListener, mut phase: watch::Receiver<Phase>) -> Ended {
        let mut tasks = JoinSet::new();
        let mut idle = self.in_flight.subscribe();
        let mut deadline: Option<Instant> = None;
        loop {
            let draining = deadline.is_some();
            let wanted = if draining { Phase::Stop } else { Phase::Drain };
            tokio::select! {
                biased;
                () = reached(&mut phase, wanted) => {
                    if draining {
                        break;
                    }
                    deadline = Some(Instant::now() + self.limits.grace);
                }
                _ = idle.wait_for(|n| *n == 0), if draining => break,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if draining => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                (stream, peer, permit) = self.accept(&listener) => {
                    tasks.spawn(self.connection(stream, peer, permit));
                }
            }
        }
        drop(listener);
        self.closing.send_replace(true);
        let all_done = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = all_done => return Ended::Drained,
            () = reached(&mut phase, Phase::Stop) => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)) => {}
        }
        let cut = tasks.len();
        tasks.shutdown().await;
        Ended::Cut(cut)
    }

    /// The next connection and its right to exist. Safe to cancel.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        let permits = Arc::clone(&self.permits);
        let permit = if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            permit
        } else {
            self.pressure.send_modify(|n| *n += 1);
            permits.acquire_owned().await.expect("BUG: the semaphore is never closed")
        };
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, permit),
                Err(error) => {
                    // A connection that broke before it was accepted is no concern; out of file descriptors is, and
                    // would spin.
                    tracing::warn!(%error, "cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// One connection from its first byte to its last; `permit` frees its place when it ends.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let limits = self.limits;
        let mut closing = self.closing.subscribe();
        let mut pressure = self.pressure.subscribe();
        let (router, in_flight) = (self.router.clone(), self.in_flight.clone());
        async move {
            let _permit = permit;
            let mut byte = [0];
            let first = tokio::select! {
                first = stream.peek(&mut byte) => first,
                () = sleep(limits.first_byte) => return,
                () = set(&mut closing) => return,
                // Asked to give way: unless its first byte has come and merely was not looked at yet.
                _ = pressure.changed() => match timeout(UNDER_PRESSURE, stream.peek(&mut byte)).await {
                    Ok(first) => first,
                    Err(_) => return,
                },
            };
            if !matches!(first, Ok(1..)) {
                return;
            }
            // Answers are written in one go; waiting to fill a packet only delays them.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(router.clone(), in_flight.clone(), request, peer));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_header_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADER_FIELDS)
                .max_buf_size(2 * MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(StallLimited::new(stream, limits.write_stall)), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = set(&mut closing) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection of {peer} ended: {error}");
            }
        }
    }
}

async fn answer(
    router: Router,
    in_flight: watch::Sender<usize>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    let _counted = InFlight::enter(in_flight);
    request.extensions_mut().insert(Peer(peer));
    router.oneshot(request.map(Body::new)).await
}

/// Counts a request for as long as its handler runs, also when the client hangs up and the handler is dropped.
struct InFlight(watch::Sender<usize>);

impl InFlight {
    fn enter(counter: watch::Sender<usize>) -> Self {
        counter.send_modify(|n| *n += 1);
        Self(counter)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// Waits until the phase is at least `wanted`. A sender that is gone will never ask for anything: waits for ever.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|now| *now >= wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the flag is set, or for ever if nobody is left to set it.
async fn set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

//! The accept loop: HTTP/1.1 with a limit on everything a client can drag out, and an orderly end.
//!
//! `axum::serve` has no time-outs at all, and hyper's header time-out alone leaves slow bodies and slow readers open.
//! Limited here: silence after connecting, the head, writes that stall, connections at once and by address
//! (`places`). The body's time is limited where it is read ([`super::JsonBody`]).
//!
//! A client that has left while its request is worked on ends the work: its handler is dropped.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode, Version};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::either::Either;
use tower::ServiceExt;

use super::places::{Doing, Most, Place, Places};
use super::problem::{Kind, Problem};
use super::socket::{Socket, StallLimited};
use super::tls::{HANDSHAKE, Tls};
use crate::config::Http;

/// Longest request head; longer ones answer 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most header fields; more answer 431.
const MAX_HEADER_FIELDS: usize = 64;
/// How long a request waits for a place when all are taken; then it is answered 503.
const FOR_A_PLACE: Duration = Duration::from_secs(5);
/// How long a connection that was told to end may take for it, unless a request is worked on.
const TO_LEAVE: Duration = Duration::from_secs(1);

/// What a client may drag out.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence after connecting.
    pub first_byte: Duration,
    /// Time for a complete head, and of keep-alive idleness.
    pub head: Duration,
    /// Time for which the client may take too little of its response.
    pub write_stall: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address.
    pub per_address: usize,
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
            per_address: http.connections_per_address,
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
    tls: Option<Tls>,
    router: Router,
    limits: Limits,
    phase: watch::Receiver<Phase>,
) -> Ended {
    let server = Server {
        router,
        tls,
        limits,
        places: Places::new(Most { connections: limits.connections, per_address: limits.per_address }),
        in_flight: watch::Sender::new(0),
        closing: watch::Sender::new(false),
    };
    server.run(listener, phase).await
}

struct Server {
    router: Router,
    /// What connections are encrypted with.
    tls: Option<Tls>,
    limits: Limits,
    places: Places,
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
        let mut accepted = None;
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
                place = self.accept(&listener, &mut accepted) => {
                    if let Some((stream, peer)) = accepted.take() {
                        tasks.spawn(self.connection(stream, peer, place));
                    }
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

    /// Accepts the next connection, and finds a place for it. Safe to cancel: what was accepted stays where it is.
    async fn accept(&self, listener: &TcpListener, accepted: &mut Option<(TcpStream, SocketAddr)>) -> Place {
        const AGAIN: Duration = Duration::from_millis(10);
        while accepted.is_none() {
            match listener.accept().await {
                Ok(connection) => *accepted = Some(connection),
                Err(error) => {
                    // A connection that broke before it was accepted is no concern; out of file descriptors is, and
                    // would spin.
                    tracing::warn!(%error, "cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        loop {
            let from = accepted.as_ref().map(|(_, peer)| peer.ip());
            if let Some(place) = from.and_then(|from| self.places.enter(from)) {
                return place;
            }
            sleep(AGAIN).await;
        }
    }

    /// One connection from its first byte to its last; `place` is free again when it ends.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
    ) -> impl Future<Output = ()> + Send + 'static {
        let limits = self.limits;
        let mut closing = self.closing.subscribe();
        let (router, in_flight, tls) = (self.router.clone(), self.in_flight.clone(), self.tls.clone());
        async move {
            let (socket, place) = (Socket::new(stream), Arc::new(place));
            let mut talk = Talk {
                router,
                in_flight,
                limits,
                peer,
                socket,
                place,
                closing: closing.clone(),
                secure: false,
            };
            let socket = Arc::clone(&talk.socket);
            let greeted = async {
                let first = socket.first_byte().await?;
                let wire = StallLimited::new(Arc::clone(&socket), limits.write_stall);
                match &tls {
                    None => Some(Either::Left(wire)),
                    Some(tls) if first == HANDSHAKE => {
                        let greeted = tls.greet(wire).await;
                        greeted
                            .map(|stream| Either::Right(Box::new(stream)))
                            .map_err(|error| {
                                tracing::debug!(%peer, %error, "no TLS with {peer}: {error}");
                            })
                            .ok()
                    }
                    Some(_) => {
                        talk.router = Router::new().fallback(needs_tls);
                        Some(Either::Left(wire))
                    }
                }
            };
            let greeted = tokio::select! {
                greeted = greeted => greeted,
                () = sleep(limits.first_byte) => None,
                () = set(&mut closing) => None,
                () = talk.place.told_to_leave() => None,
            };
            match greeted {
                None => {}
                Some(Either::Left(wire)) => talk.hold(wire).await,
                Some(Either::Right(stream)) => {
                    talk.secure = true;
                    talk.hold(stream).await;
                }
            }
        }
    }
}

/// What a client gets that speaks plain HTTP where TLS is expected.
async fn needs_tls() -> Problem {
    Problem::new(Kind::BadRequest, "this server speaks TLS: write https:// instead of http://")
}

/// A connection whose client has greeted.
struct Talk {
    router: Router,
    in_flight: watch::Sender<usize>,
    limits: Limits,
    peer: SocketAddr,
    socket: Arc<Socket>,
    place: Arc<Place>,
    closing: watch::Receiver<bool>,
    /// Whether it is encrypted.
    secure: bool,
}

impl Talk {
    /// Requests and answers over `wire`, to the end.
    async fn hold(self, wire: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let Self { router, in_flight, limits, peer, socket, place, mut closing, secure } = self;
        let upgraded = Arc::new(AtomicBool::new(false));
        let seat = Seat {
            place: Arc::clone(&place),
            work: watch::Sender::new(Work::None),
            upgraded: Arc::clone(&upgraded),
            in_flight: in_flight.clone(),
            secure,
        };
        let mut work = seat.work.subscribe();
        let service =
            service_fn(move |request| answer(router.clone(), in_flight.clone(), request, peer, seat.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .header_read_timeout(limits.head)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADER_FIELDS)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(wire), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let mut left = std::pin::pin!(left(&socket, secure, &mut work));
        let mut ending = std::pin::pin!(async {
            tokio::select! {
                () = set(&mut closing) => {}
                () = place.told_to_leave() => {}
            }
        });
        let mut end = None;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = left.as_mut() => {
                    tracing::debug!(%peer, "{peer} has left");
                    return;
                }
                () = ending.as_mut(), if end.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    end = Some(Instant::now() + TO_LEAVE);
                }
                // While the server drains, what takes long has the whole grace period.
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() && place.is_ending() => {
                    if !place.does(Doing::Working) {
                        return;
                    }
                    end = Some(Instant::now() + TO_LEAVE);
                }
            }
        };
        if upgraded.load(Ordering::Relaxed) {
            // The socket is another's now, and so is the place.
            return;
        }
        place.doing(Doing::Waiting);
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection of {peer} ended: {error}");
        }
        if end.is_none() {
            socket.linger().await;
        }
    }
}

/// What is worked on for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing whose client is waited for.
    None,
    /// A request; whether an interim answer may be sent.
    Request { interim: bool },
}

/// The connection as its requests see it.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    place: Arc<Place>,
    work: watch::Sender<Work>,
    /// Whether it speaks another protocol from now on.
    upgraded: Arc<AtomicBool>,
    in_flight: watch::Sender<usize>,
    /// Whether it is encrypted.
    pub(super) secure: bool,
}

/// Something is worked on that the server's end waits for, as for a request.
#[derive(Debug)]
pub(super) struct Works {
    _counted: InFlight,
}

impl Seat {
    /// Says that the answer goes on for as long as there is something to tell, and that its end is no loss. What this gives
    /// is done when the place is wanted.
    pub(super) fn streams(&self) -> impl Future<Output = ()> + Send + use<> {
        self.place.doing(Doing::Streaming);
        self.place.told_to_leave()
    }

    /// Says that something is worked on beside the requests of this connection, until what this gives is dropped.
    pub(super) fn works(&self) -> Works {
        Works { _counted: InFlight::enter(self.in_flight.clone()) }
    }
}

/// The request came without a place, and none was free in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoPlace;

/// Waits until the client has left while its request is worked on.
async fn left(socket: &Socket, secure: bool, work: &mut watch::Receiver<Work>) {
    loop {
        let wanted = work.wait_for(|work| *work != Work::None).await.map(|work| *work);
        let Ok(Work::Request { interim }) = wanted else { std::future::pending().await };
        tokio::select! {
            () = socket.closed(), if secure => return,
            () = socket.left(interim), if !secure => return,
            _ = work.changed() => {}
        }
    }
}

async fn answer(
    router: Router,
    in_flight: watch::Sender<usize>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    seat: Seat,
) -> Result<Response<Body>, Infallible> {
    let _counted = InFlight::enter(in_flight);
    seat.place.doing(Doing::Working);
    let interim = request.version() > Version::HTTP_10;
    seat.work.send_replace(Work::Request { interim });
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !probe && !seat.place.is_seated() && !seat.place.sit(Instant::now() + FOR_A_PLACE).await {
        request.extensions_mut().insert(NoPlace);
    }
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(seat.clone());
    let response = router.oneshot(request.map(Body::new)).await;
    seat.work.send_replace(Work::None);
    Ok(match response {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            seat.upgraded.store(true, Ordering::Relaxed);
            response
        }
        Ok(response) => response.map(|body| Body::new(Answering { body, place: Arc::clone(&seat.place) })),
        Err(never) => match never {},
    })
}

/// The body of an answer; when it is over, the connection waits for the next request.
struct Answering {
    body: Body,
    place: Arc<Place>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.place.doing(Doing::Waiting);
    }
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request for as long as its handler runs, also when the client hangs up and the handler is dropped.
#[derive(Debug)]
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

//! A client's socket: writes that give up when it takes too little, and a way to see that it has left.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes a second that a client takes of its answer at least, while there are some to take.
const LEAST_RATE: usize = 16 << 10;
/// How long a client whose side has ended is taken for one that waits for its answer, before it is asked.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How often it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How soon a client that has left is found to have, once asked.
const LISTEN: Duration = Duration::from_millis(100);
/// Of a client that says more than it was asked for, only this much is heard after the answer, and only for this long.
const MOST_UNHEARD: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// A client's socket, shared by who serves it and who watches it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Whether bytes wait to be written.
    blocked: AtomicBool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        // Answers are written in one go; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        Arc::new(Self { stream, blocked: AtomicBool::new(false) })
    }

    /// Waits for a byte, which stays there: the first that the client says, if it says anything.
    pub(super) async fn first_byte(&self) -> Option<u8> {
        let mut first = [0];
        matches!(self.stream.peek(&mut first).await, Ok(1..)).then_some(first[0])
    }

    /// Waits until the client has closed its side. Over TLS, nobody ends a side and waits for an answer on the other.
    pub(super) async fn closed(&self) {
        while let Ok(ready) = self.stream.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            sleep(LISTEN).await;
        }
    }

    /// Waits until the client has left, while its request is worked on and nothing of the answer has been written.
    ///
    /// A client that has closed and one that has only ended its side look the same, and the second waits for its answer. They
    /// differ when something is sent to them: so they are sent an interim answer, which clients pass over.
    pub(super) async fn left(&self, interim: bool) {
        loop {
            match self.stream.peek(&mut [0]).await {
                Ok(0) => break,
                // The rest of the body, or the next request.
                Ok(_) => sleep(LISTEN).await,
                Err(_) => return,
            }
        }
        if !interim {
            std::future::pending::<()>().await;
        }
        sleep(ASK_AFTER).await;
        loop {
            if !self.blocked.load(Ordering::Relaxed) {
                match self.stream.try_write(b"HTTP/1.1 100 Continue\r\n\r\n") {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            let again = Instant::now() + ASK_AGAIN;
            while Instant::now() < again {
                sleep(LISTEN).await;
                if !matches!(self.stream.take_error(), Ok(None)) {
                    return;
                }
            }
        }
    }

    /// Hears the client out after the last answer: closing a socket with bytes unread takes the answer away from who has not
    /// read it yet.
    pub(super) async fn linger(&self) {
        let hear = async {
            let mut heard = 0;
            let mut buffer = vec![0; 64 << 10];
            while heard < MOST_UNHEARD && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => heard += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, hear).await;
    }
}

/// The side of a [`Socket`] that requests are read from and answers written to.
///
/// Without its limit a client that takes its answer byte by byte would hold its connection and the answer's memory for ever.
#[derive(Debug)]
pub(super) struct StallLimited {
    socket: Arc<Socket>,
    limit: Duration,
    /// Since when a write has been pending, and what ends it.
    pending: Option<(Instant, Pin<Box<Sleep>>)>,
    /// For how long writes were pending in all, and what was taken since the first of them.
    waited: Duration,
    taken: usize,
}

impl StallLimited {
    /// `limit`: how long a client may take less than [`LEAST_RATE`].
    pub(super) fn new(socket: Arc<Socket>, limit: Duration) -> Self {
        Self { socket, limit, pending: None, waited: Duration::ZERO, taken: 0 }
    }

    /// Passes a finished write through and turns a pending one into an error once the limit has passed.
    fn limited(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.socket.blocked.store(poll.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(result) = poll {
            if let Some((since, _)) = self.pending.take() {
                self.waited += since.elapsed();
            }
            self.taken += result.as_ref().copied().unwrap_or(0);
            if self.waited >= self.limit {
                if self.taken < (self.limit.as_secs_f64() * LEAST_RATE as f64) as usize {
                    return Poll::Ready(Err(stalled()));
                }
                (self.waited, self.taken) = (Duration::ZERO, 0);
            }
            return Poll::Ready(result);
        }
        if self.waited.is_zero() {
            self.taken = 0;
        }
        let left = self.limit.saturating_sub(self.waited);
        let (_, timer) = self.pending.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(stalled()))
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client takes too little")
}

impl AsyncRead for StallLimited {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.socket.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl StallLimited {
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let poll = loop {
            match self.socket.stream.poll_write_ready(cx) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => match write(&self.socket.stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => break Poll::Ready(result),
                },
            }
        };
        self.limited(cx, poll)
    }
}

impl AsyncWrite for StallLimited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(
            rustix::net::shutdown(&self.socket.stream, rustix::net::Shutdown::Write).map_err(Into::into),
        )
    }
}

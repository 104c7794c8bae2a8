//! Listeners: TLS, limits on request heads and connections, and shutdown.
//!
//! Both listeners serve the same routes. It knows nothing about events.

use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use hyper_util::rt::TokioTimer;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::config::GatewayConfig;

/// Streams of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 128;
/// Flow-control windows of HTTP/2, bytes: enough for several batches ahead, and at most 1 GiB with 1 024 connections
/// that all fill theirs.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Interval of pings on a silent HTTP/2 connection, and how long an answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Binds without waiting for anything.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Required by tokio: `accept` on a blocking socket would stop a runtime thread.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves on one listener until `handle` ends it.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    guard: Guard,
    tls: Option<RustlsConfig>,
    config: &GatewayConfig,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let mut server = axum_server::from_tcp(listener)?.handle(handle);
    bound_heads(&mut server, config);
    let service = routes.into_make_service();
    match tls {
        None => server.acceptor(guard).serve(service).await,
        Some(tls) => {
            let timeout = Duration::from_millis(config.header_read_timeout_ms);
            // The guard sees encrypted bytes and lets a connection live once 24 of them have arrived. A client
            // that never completes the handshake is ended by this timeout.
            let acceptor = RustlsAcceptor::new(tls).handshake_timeout(timeout).acceptor(guard);
            server.acceptor(acceptor).serve(service).await
        }
    }
}

fn bound_heads(server: &mut Server<SocketAddr>, config: &GatewayConfig) {
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_read_timeout_ms))
        .max_headers(config.headers_max)
        .max_buf_size(config.header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        // The decoded size, as HPACK decodes a few bytes to a long header.
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // Answers to pings count as reads for `Guarded`: an idle HTTP/2 connection whose peer is alive stays
        // open, and one whose peer vanished without a FIN ends after 40 s.
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
}

/// Limits the number of connections, and closes silent ones.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    places: Arc<Semaphore>,
    refused: Counter,
    first_timeout: Duration,
    idle_timeout: Duration,
}

impl Guard {
    /// For all listeners together.
    pub(super) fn new(config: &GatewayConfig, refused: Counter) -> Self {
        Self {
            // A tokio semaphore panics above its maximum.
            places: Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS))),
            refused,
            first_timeout: Duration::from_millis(config.header_read_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
        }
    }
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = Guarded<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // Closed, not queued: a connection that waits holds a file descriptor as well, and those are what the
        // limit protects.
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.refused.inc();
            return ready(Err(io::Error::other("too many connections")));
        };
        // Answers are small and final: Nagle's algorithm would hold them back for the client's delayed ACK.
        let nodelay = stream.set_nodelay(true);
        ready(nodelay.map(|()| (Guarded::new(stream, self.first_timeout, self.idle_timeout, place), service)))
    }
}

/// Length of the HTTP/2 preface (RFC 9113 section 3.4). Until hyper has read that many bytes it does not know the
/// version, and none of its own timeouts runs.
const PREFACE_BYTES: usize = 24;

/// A connection that is closed when nothing was read for too long. The first bytes share one deadline, so that a
/// client cannot hold the connection by sending them one at a time.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    silence: Pin<Box<Sleep>>,
    first_bytes: usize,
    idle_timeout: Duration,
    _place: OwnedSemaphorePermit,
}

impl<S> Guarded<S> {
    fn new(stream: S, first_timeout: Duration, idle_timeout: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { stream, silence: Box::pin(sleep(first_timeout)), first_bytes: 0, idle_timeout, _place: place }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        match read {
            Poll::Ready(_) => {
                this.first_bytes = this.first_bytes.saturating_add(buf.filled().len() - before);
                // Before that the deadline stays where it is, however many single bytes arrive.
                if this.first_bytes >= PREFACE_BYTES {
                    this.silence.as_mut().reset(Instant::now() + this.idle_timeout);
                }
                read
            }
            Poll::Pending => {
                // Polled only if the socket has nothing to read; this also registers the task to be woken at
                // the deadline.
                let silent = this.silence.as_mut().poll(cx);
                silent.map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was sent for too long")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

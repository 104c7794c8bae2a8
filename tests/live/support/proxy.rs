//! A TCP proxy that breaks connections on demand: refused requests, lost answers, delays.
//!
//! It knows no protocol; what a fault means to a client is for the suite to find out.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an answer is held back.
const DELAY: Duration = Duration::from_millis(700);

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Nothing.
    Pass,
    /// A connection ends when the client has said something, before the server hears of it.
    CutRequests,
    /// The server hears the request, and the connection ends when it answers.
    LoseAnswers,
    /// Answers come late.
    DelayAnswers,
}

#[derive(Debug)]
struct Shared {
    server: String,
    mode: AtomicU8,
    fired: AtomicU64,
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }

    fn fire(&self) {
        self.fired.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running proxy; it ends with the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// `host:port` to connect to.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of `server`, `host:port`.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mode = AtomicU8::new(Mode::Pass as u8);
        let shared = Arc::new(Shared { server: server.to_owned(), mode, fired: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connect(client, &accepting);
            }
        });
        Self { address, shared }
    }

    /// From now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// How often a fault has hit a connection.
    pub(crate) fn fired(&self) -> u64 {
        self.shared.fired.load(Ordering::Relaxed)
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) {
    // A server that is away is a connection that ends at once.
    let Ok(server) = TcpStream::connect(&shared.server) else { return };
    let pair = |stream: &TcpStream| stream.try_clone().expect("a clone");
    let (client_again, server_again) = (pair(&client), pair(&server));
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    std::thread::spawn(move || copy(client, server, || up.is(Mode::CutRequests).then(|| up.fire()).is_none()));
    std::thread::spawn(move || copy(server_again, client_again, || down_passes(&down)));
}

fn down_passes(shared: &Shared) -> bool {
    if shared.is(Mode::LoseAnswers) {
        shared.fire();
        return false;
    }
    if shared.is(Mode::DelayAnswers) {
        shared.fire();
        let until = Instant::now() + DELAY;
        while Instant::now() < until {
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
    true
}

/// Copies until either side ends or `passes` says no; then both sides end.
fn copy(mut from: TcpStream, mut to: TcpStream, passes: impl Fn() -> bool) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(read) = from.read(&mut bytes) {
        if read == 0 || !passes() || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // It may be closed already.
        let _closed = stream.shutdown(Shutdown::Both);
    }
}

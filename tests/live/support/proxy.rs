//! A TCP proxy that breaks connections on demand: requests that are not heard or heard in half, answers that
//! are lost, resets, delays, silence.
//!
//! It breaks any protocol; of Kafka's it knows so much as tells a transaction's end and an append from other
//! requests. What a fault means to a client is for the suite to find out.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pause;

/// How long an answer is held back.
const ANSWER_DELAY: Duration = Duration::from_millis(700);
/// How long each piece is held back, in either direction.
const PIECE_DELAY: Duration = Duration::from_millis(300);
/// How often silence looks whether it is over.
const SILENCE_LOOK: Duration = Duration::from_millis(50);

/// `EndTxn` and `Produce` of Kafka's protocol.
const END_TXN: u16 = 26;
const PRODUCE: u16 = 0;

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Pass,
    /// A connection ends in order (FIN) when the client has said something, before the server hears of it.
    CutRequests,
    /// It ends by a reset (RST).
    Reset,
    /// The server hears half of what the client has said, and the connection ends.
    HalveRequests,
    /// The server hears the request, and the connection ends when it answers.
    LoseAnswers,
    /// So it is with the end of a Kafka transaction alone.
    LoseCommitAnswers,
    /// So it is with an append to a Kafka partition alone.
    LoseAppendAnswers,
    /// Answers come late.
    DelayAnswers,
    /// Everything comes late.
    Delay,
    /// Nothing passes, and no connection ends; once it is over what was said is heard.
    Silence,
}

#[derive(Debug)]
struct Shared {
    server: String,
    mode: Mutex<Mode>,
    fired: AtomicU64,
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().expect("no panic under the lock")
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
    /// In front of `server`, `host:port`, at any port.
    pub(crate) fn start(server: &str) -> Self {
        Self::start_at("127.0.0.1:0", server)
    }

    /// In front of `server`, at an address that somebody was told already.
    pub(crate) fn start_at(address: &str, server: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let address = listener.local_addr().expect("an address").to_string();
        let (mode, fired) = (Mutex::new(Mode::Pass), AtomicU64::new(0));
        let shared = Arc::new(Shared { server: server.to_owned(), mode, fired });
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
        *self.shared.mode.lock().expect("no panic under the lock") = mode;
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
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        answer_is_doomed: AtomicBool::new(false),
        is_reset: AtomicBool::new(false),
    });
    let (up, down, mut requests) = (Arc::clone(&connection), connection, Requests::default());
    std::thread::spawn(move || up.copy(client, server, |bytes| up.fate_of_request(bytes, requests.begun_in(bytes))));
    std::thread::spawn(move || down.copy(server_again, client_again, |_| down.fate_of_answer()));
}

/// What becomes of a piece and of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// So many bytes pass; the connection ends in order.
    EndsAfter(usize),
    Resets,
}

/// A client's connection with the server's.
struct Connection {
    shared: Arc<Shared>,
    answer_is_doomed: AtomicBool,
    is_reset: AtomicBool,
}

impl Connection {
    fn fate_of_request(&self, bytes: &[u8], begun: Vec<u16>) -> Fate {
        let fate = match self.shared.mode() {
            Mode::CutRequests => Fate::EndsAfter(0),
            Mode::HalveRequests => Fate::EndsAfter(bytes.len() / 2),
            Mode::Reset => Fate::Resets,
            mode => {
                let is_doomed = (mode == Mode::LoseCommitAnswers && begun.contains(&END_TXN))
                    || (mode == Mode::LoseAppendAnswers && begun.contains(&PRODUCE));
                self.answer_is_doomed.fetch_or(is_doomed, Ordering::Relaxed);
                self.hold_back(mode);
                return Fate::Passes;
            }
        };
        self.shared.fire();
        fate
    }

    fn fate_of_answer(&self) -> Fate {
        let mode = self.shared.mode();
        if mode == Mode::LoseAnswers || self.answer_is_doomed.load(Ordering::Relaxed) {
            self.shared.fire();
            return Fate::EndsAfter(0);
        }
        if mode == Mode::DelayAnswers {
            self.shared.fire();
            pause(ANSWER_DELAY);
        }
        self.hold_back(mode);
        Fate::Passes
    }

    /// What happens to both directions.
    fn hold_back(&self, mode: Mode) {
        if mode == Mode::Delay {
            self.shared.fire();
            pause(PIECE_DELAY);
        }
        // Asked again: silence may have begun while the piece was late.
        if self.shared.mode() == Mode::Silence {
            self.shared.fire();
        }
        while self.shared.mode() == Mode::Silence {
            pause(SILENCE_LOOK);
        }
    }

    /// Copies until either side ends or a piece ends the connection; then both sides end.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream, mut fate: impl FnMut(&[u8]) -> Fate) {
        let mut bytes = [0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let passing = match fate(&bytes[..read]) {
                Fate::Passes => read,
                Fate::EndsAfter(passing) => passing,
                Fate::Resets => {
                    // Without a word at its end, where the last of the two threads lets go of it.
                    rustix::net::sockopt::set_socket_linger(&from, Some(Duration::ZERO)).expect("a socket");
                    self.is_reset.store(true, Ordering::Relaxed);
                    break;
                }
            };
            if to.write_all(&bytes[..passing]).is_err() || passing < read {
                break;
            }
        }
        if self.is_reset.load(Ordering::Relaxed) {
            // The server's: it wakes the other thread. It may be closed already.
            let _closed = to.shutdown(Shutdown::Both);
            return;
        }
        for stream in [from, to] {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Reads the heads of Kafka's requests in a stream: size (4 bytes, of what follows) and API key (2 bytes).
#[derive(Debug, Default)]
struct Requests {
    head: Vec<u8>,
    /// Bytes up to the next request.
    left: usize,
}

impl Requests {
    /// API keys of the requests whose heads end in this piece.
    fn begun_in(&mut self, mut bytes: &[u8]) -> Vec<u16> {
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(6 - self.head.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, d, high, low] = self.head[..] {
                keys.push(u16::from_be_bytes([high, low]));
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(2);
                self.head.clear();
            }
        }
        keys
    }
}

#[test]
fn requests_are_told_apart_however_they_are_cut() {
    let request = |key: u16, body: usize| {
        let size = u32::try_from(body + 2).expect("small").to_be_bytes();
        [&size[..], &key.to_be_bytes(), &vec![0xff; body]].concat()
    };
    let stream = [request(3, 10), request(END_TXN, 0), request(PRODUCE, 100)].concat();
    for piece in 1..=stream.len() {
        let mut requests = Requests::default();
        let keys: Vec<u16> = stream.chunks(piece).flat_map(|bytes| requests.begun_in(bytes)).collect();
        assert_eq!(keys, [3, END_TXN, PRODUCE], "pieces of {piece} bytes");
    }
}

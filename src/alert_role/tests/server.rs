//! An HTTP server on loopback that notes what it is sent and answers from a script, then 200.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

/// One scripted answer.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// A status, with a `Retry-After`.
    Status(u16, Option<&'static str>),
    /// The connection closes without one.
    Lost,
    /// None ever comes.
    Silent,
}

/// What was sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) at: Instant,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

#[derive(Debug)]
struct Shared {
    script: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<Request>>,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(script.into_iter().collect()),
            requests: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, address, task }
    }

    pub(super) fn url(&self) -> String {
        self.address.clone()
    }

    /// What was sent so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Adds to the script.
    pub(super) fn then(&self, script: impl IntoIterator<Item = Reply>) {
        self.shared.script.lock().unwrap().extend(script);
    }

    /// Waits until so many requests have come.
    pub(super) async fn wait_for(&self, count: usize) {
        self.shared.count.subscribe().wait_for(|found| *found >= count).await.unwrap();
    }

    /// Stops listening; the address that nobody answers at.
    pub(super) async fn stop(self) -> String {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let request = Request { at: Instant::now(), path: uri.path().to_owned(), headers, body: body.to_vec() };
    shared.requests.lock().unwrap().push(request);
    shared.count.send_modify(|count| *count += 1);
    let reply = shared.script.lock().unwrap().pop_front();
    match reply {
        Some(Reply::Silent) => std::future::pending().await,
        None => StatusCode::OK.into_response(),
        Some(Reply::Status(status, None)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Reply::Status(status, Some(after))) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", after)]).into_response()
        }
        // Ends the connection's task, and with it the connection, without a word on standard error.
        Some(Reply::Lost) => std::panic::resume_unwind(Box::new("lost answer")),
    }
}

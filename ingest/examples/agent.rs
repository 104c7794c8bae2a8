//! A small agent: one session, one model call, sent to a gateway on this machine.
//!
//! `cargo run -p ingest --features client --example agent`; without a gateway the events wait in the
//! spool for the next run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingest::agent::client::{Client, ClientConfig};
use schemas::event::{Event, EventHeader, ModelCall, SessionEnded, SessionStarted};
use schemas::id::Uuid;
use schemas::text::Content;
use schemas::time::TimestampMicros;

#[allow(clippy::disallowed_methods, reason = "an application brings its own clock")]
fn now() -> TimestampMicros {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    TimestampMicros(i64::try_from(micros).unwrap_or(i64::MAX))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ClientConfig::new("http://127.0.0.1:4318", "agent-spool", now);
    let client = Client::start(ClientConfig { agent_id: "greeter".to_owned(), ..config })?;
    let session_id = Uuid::v7(now().ms().unsigned_abs(), std::process::id().into());
    let h = |event_type: &str| EventHeader { session_id, ..EventHeader::of_type(event_type) };
    client.emit(Event::SessionStarted(SessionStarted { h: h("session.started"), ..Default::default() }))?;
    let (input, output) = (Some(Content::plain("Say hello")), Some(Content::plain("Hello!")));
    client.emit(Event::ModelCall(ModelCall { h: h("model.call"), input, output, ..Default::default() }))?;
    client.emit(Event::SessionEnded(SessionEnded { h: h("session.ended"), ..Default::default() }))?;
    let closed = client.close(Duration::from_secs(5));
    println!("{} events acknowledged, {} wait", closed.stats.acked, closed.stats.spooled_events);
    Ok(())
}

//! The status as a table for people.

use super::archive::{ArchiveStatus, TopicArchive};
use super::{ALERT, ReaderStatus, Status, TableStatus};

impl Status {
    /// As a table for people.
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("{:<18} {:<26} {:>12} {:>12}", "role", "topic", "lag records", "lag seconds")];
        lines.extend(self.readers.iter().map(reader));
        lines.extend(archive(&self.archive));
        let letters: Vec<String> = self.dead_letters.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        lines.push(format!(
            "open dead letters: {}",
            if letters.is_empty() { "none".to_owned() } else { letters.join(", ") }
        ));
        match &self.clickhouse {
            None => lines.push(format!("ClickHouse: {}", self.clickhouse_error)),
            Some(tables) => lines.extend(self::tables(tables)),
        }
        lines.join("\n")
    }
}

fn reader(reader: &ReaderStatus) -> String {
    // A receiver is known by its name, which ends its group's.
    let role = match reader.group.strip_prefix("custody-alert-") {
        Some(receiver) if reader.role == ALERT => format!("{ALERT} {receiver}"),
        _ => reader.role.clone(),
    };
    format!("{role:<18} {:<26} {:>12} {:>12.1}", reader.topic, reader.lag_records, reader.lag_seconds)
}

fn archive(archive: &ArchiveStatus) -> Vec<String> {
    let head = format!("{:<26} {:>11} {:>10} {:>9}  last object", "archived", "unflushed s", "seal age s", "rows");
    let mut lines = vec![head];
    lines.extend(archive.topics.iter().map(topic));
    if !archive.error.is_empty() {
        lines.push(format!("archive's store: {}", archive.error));
    }
    lines
}

fn topic(topic: &TopicArchive) -> String {
    // Nothing but ticks within sight: a record may wait behind them.
    let unflushed = topic.oldest_unflushed_seconds.map_or("unknown".to_owned(), |age| format!("{age:.1}"));
    match &topic.last_object {
        Some(last) => format!(
            "{:<26} {unflushed:>11} {:>10.1} {:>9}  {}",
            topic.topic, last.seal_age_seconds, last.rows, last.key
        ),
        None => format!("{:<26} {unflushed:>11} {:>10} {:>9}  none", topic.topic, "-", "-"),
    }
}

fn tables(tables: &TableStatus) -> Vec<String> {
    let mut lines = vec![format!("ClickHouse: {} events, newest {}", tables.events, tables.newest_event_time)];
    lines.extend(tables.sessions.iter().map(|s| {
        format!("  {} {} {} {} events, last {}", s.tenant_id, s.agent_id, s.session_id, s.events, s.last_event_time)
    }));
    lines
}

//! Brings a database to the layout that this build writes, step by step, and records each step.
//!
//! Every statement may be run again, so a crash in the middle is repaired by the next start. A
//! database of a newer build is refused, never downgraded.

use schemas::id::Sha256;
use serde::Deserialize;

use crate::clickhouse::client::ClickHouse;
use crate::clickhouse::{ddl, views};
use crate::error::{ErrorClass, SinkError};

/// A step of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Number, from 1.
    pub version: u32,
    /// What it makes.
    pub name: &'static str,
    /// Statements, in order; each may be repeated.
    pub statements: Vec<String>,
    /// Whether a server that does not let us run it can do without.
    pub is_optional: bool,
}

impl Migration {
    /// SHA-256 of the statements, hexadecimal: another text is applied again.
    pub fn sha256(&self) -> String {
        Sha256::of(self.statements.join(";\n").as_bytes()).to_hex()
    }
}

/// A step that a database has seen.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Applied {
    /// Number.
    pub version: u32,
    /// Digest of the statements that were run last.
    pub sha256: String,
    /// `applied`, or why the server could not.
    pub outcome: String,
}

/// A database that this build must not touch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the database has layout {found}, this build knows {known}; use a newer custody")]
pub struct NewerLayout {
    /// Newest step there.
    pub found: u32,
    /// Newest step here.
    pub known: u32,
}

/// The steps of this build.
pub fn migrations(database: &str) -> Vec<Migration> {
    let views = views::views().iter().map(|view| view.create(database)).collect();
    let step = |version, name, statements, is_optional| Migration { version, name, statements, is_optional };
    vec![
        step(1, "tables", ddl::create_tables(database), false),
        step(2, "functions", views::functions(), false),
        step(3, "views", views, false),
        step(4, "grants", views::grants(database), true),
    ]
}

/// Steps to run, in order: those that are new and those whose text has changed. As views expand the
/// functions they name, a step that runs takes all later ones with it.
///
/// # Errors
/// The database is newer than this build.
pub fn plan<'a>(wanted: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], NewerLayout> {
    let known = wanted.iter().map(|step| step.version).max().unwrap_or_default();
    let found = applied.iter().map(|step| step.version).max().unwrap_or_default();
    if found > known {
        return Err(NewerLayout { found, known });
    }
    let is_current = |step: &Migration| {
        let digest = step.sha256();
        applied.iter().any(|applied| applied.version == step.version && applied.sha256 == digest)
    };
    let first = wanted.iter().position(|step| !is_current(step)).unwrap_or(wanted.len());
    Ok(wanted.get(first..).unwrap_or_default())
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrateReport {
    /// Names of the steps that were run.
    pub applied: Vec<&'static str>,
    /// Optional steps that the server refused, and why.
    pub skipped: Vec<(&'static str, String)>,
    /// Columns that were added to existing tables.
    pub columns_added: usize,
}

/// Creates the database if need be and brings it to this build's layout.
///
/// # Errors
/// [`ErrorClass::Retry`]: the server is away. [`ErrorClass::Config`]: the database is newer, has
/// another type in a column, or the user lacks a right.
pub async fn migrate(server: &ClickHouse) -> Result<MigrateReport, SinkError> {
    let database = server.database();
    server.execute(&ddl::create_database(database)).await?;
    server.execute(&ddl::create_migrations(database)).await?;
    let applied = applied(server).await?;
    let wanted = migrations(database);
    let steps = plan(&wanted, &applied).map_err(|error| SinkError::new(ErrorClass::Config, "migrate", error))?;
    let mut report = MigrateReport::default();
    for step in steps {
        let outcome = run(server, step, &mut report).await?;
        record(server, step, &outcome).await?;
    }
    Ok(report)
}

/// Whether the database has exactly this build's layout.
///
/// # Errors
/// As [`migrate`]; [`ErrorClass::Config`] if a step is missing.
pub async fn check(server: &ClickHouse) -> Result<(), SinkError> {
    let wanted = migrations(server.database());
    let steps = plan(&wanted, &applied(server).await?);
    match steps.map_err(|error| SinkError::new(ErrorClass::Config, "migrate", error))?.first() {
        None => Ok(()),
        Some(step) => Err(SinkError::new(
            ErrorClass::Config,
            format!("database {}", server.database()),
            format!("layout step {} ({}) is missing; run the migration first", step.version, step.name),
        )),
    }
}

async fn applied(server: &ClickHouse) -> Result<Vec<Applied>, SinkError> {
    let sql = format!(
        "SELECT version, argMax(sha256, applied_at) AS sha256, argMax(outcome, applied_at) AS outcome \
         FROM {}.schema_migrations GROUP BY version ORDER BY version",
        server.database()
    );
    server.rows(&sql).await
}

async fn run(server: &ClickHouse, step: &Migration, report: &mut MigrateReport) -> Result<String, SinkError> {
    for statement in &step.statements {
        match server.execute(statement).await {
            Ok(()) => {}
            Err(error) if step.is_optional && error.class != ErrorClass::Retry => {
                let reason: String = error.message.chars().take(200).collect();
                report.skipped.push((step.name, reason.clone()));
                return Ok(reason);
            }
            Err(error) => return Err(error),
        }
    }
    if step.version == 1 {
        report.columns_added = extend(server).await?;
    }
    report.applied.push(step.name);
    Ok("applied".to_owned())
}

/// Appends the columns that a database of an older build lacks.
async fn extend(server: &ClickHouse) -> Result<usize, SinkError> {
    let database = server.database();
    let sql = format!("SELECT table, name, type FROM system.columns WHERE database = '{database}'");
    let existing: Vec<ddl::ExistingColumn> = server.rows(&sql).await?;
    let statements = ddl::extend_tables(database, &existing)
        .map_err(|error| SinkError::new(ErrorClass::Config, format!("database {database}"), error))?;
    for statement in &statements {
        server.execute(statement).await?;
    }
    Ok(statements.len())
}

async fn record(server: &ClickHouse, step: &Migration, outcome: &str) -> Result<(), SinkError> {
    let (version, name, sha256) = (step.version, step.name, step.sha256());
    let outcome = outcome.replace('\\', "\\\\").replace('\'', "\\'");
    let sql = format!(
        "INSERT INTO {}.schema_migrations (version, name, sha256, outcome) VALUES ({version}, '{name}', '{sha256}', '{outcome}')",
        server.database()
    );
    server.execute(&sql).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(steps: &[&Migration]) -> Vec<Applied> {
        let of =
            |step: &&Migration| Applied { version: step.version, sha256: step.sha256(), outcome: "applied".into() };
        steps.iter().map(of).collect()
    }

    #[test]
    fn what_is_new_or_changed_is_run_with_all_that_follows() {
        let wanted = migrations("custody");
        let [tables, functions, views, grants] = &wanted[..] else { panic!("four steps") };
        let check = |seen: Vec<Applied>, expected: &[&Migration]| {
            assert_eq!(plan(&wanted, &seen).unwrap().iter().collect::<Vec<_>>(), expected);
        };
        check(vec![], &[tables, functions, views, grants]);
        check(applied(&[tables, functions, views, grants]), &[]);
        check(applied(&[tables, functions]), &[views, grants]);
        let mut changed = applied(&[tables, functions, views, grants]);
        changed[1].sha256 = String::new();
        check(changed, &[functions, views, grants]);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let newer = Applied { version: 5, sha256: String::new(), outcome: "applied".to_owned() };
        assert_eq!(plan(&migrations("custody"), &[newer]), Err(NewerLayout { found: 5, known: 4 }));
    }
}

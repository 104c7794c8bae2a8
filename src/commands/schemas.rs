//! `custody schemas`: the Avro schemas for other clients and registries.

use std::process::ExitCode;

use anyhow::Context;
use schemas::codec::published_schemas;
use schemas::id::hex;

use crate::cli::SchemasCommand;

/// Lists or writes the schemas.
///
/// # Errors
/// The directory cannot be written.
pub fn run(command: &SchemasCommand) -> anyhow::Result<ExitCode> {
    match command {
        SchemasCommand::List => {
            for schema in published_schemas() {
                println!("{:<22} {:<24} {}", schema.name, schema.event_type, hex(&schema.fingerprint));
            }
        }
        SchemasCommand::Export { dir } => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            for schema in published_schemas() {
                let file = dir.join(format!("{}.avsc", schema.name));
                std::fs::write(&file, &schema.json).with_context(|| format!("cannot write {}", file.display()))?;
            }
            println!("{} schemas written to {}", published_schemas().len(), dir.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `custody schemas`: the Avro schemas, for other clients and for a registry.

use std::process::ExitCode;

use anyhow::Context;
use schemas::codec::{NAMESPACE, published_schemas};
use schemas::id::hex;

use crate::cli::SchemasCommand;
use crate::config::Config;
use crate::registry::RegistryClient;

/// Lists, writes or registers the schemas.
///
/// # Errors
/// The directory cannot be written, or the registry refuses.
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
        SchemasCommand::Register { compatibility, config } => {
            let config = config.load()?.config;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(register(&config, compatibility))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The level first: a subject must not take an incompatible version before it is set.
async fn register(config: &Config, compatibility: &str) -> anyhow::Result<()> {
    let client = RegistryClient::new(&config.schemas.registry)?;
    let client = client.context("there is no registry: set schemas.registry.url")?;
    for schema in published_schemas().iter().filter(|schema| !schema.event_type.is_empty()) {
        let subject = format!("{NAMESPACE}.{}", schema.name);
        client.set_compatibility(&subject, compatibility).await?;
        println!("{:>10} {subject}", client.register(&subject, &schema.json).await?);
    }
    Ok(())
}

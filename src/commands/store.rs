//! The archive that a command reads: in a data directory, or where `--store` says.
//!
//! Credentials are never arguments, as other users of a machine can read those.

use std::path::{Path, PathBuf};

use clap::Args;
use sinks::parquet::store::Store;
use sinks::parquet::store::config::StoreConfig;

/// Where the archive is, if not in the data directory.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Archive: `s3://BUCKET[/PREFIX]`, with the credentials of the AWS environment variables or of
    /// this machine's role, or `file:DIR`.
    #[arg(long, env = "CUSTODY_STORE__URL", value_name = "URL")]
    pub store: Option<String>,
    /// Address of an S3 server other than AWS; http:// is accepted.
    #[arg(long, env = "CUSTODY_STORE__ENDPOINT", value_name = "URL")]
    pub store_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, env = "CUSTODY_STORE__REGION", value_name = "NAME")]
    pub store_region: Option<String>,
    /// PEM file with the certificate authority of that server.
    #[arg(long, env = "CUSTODY_STORE__CA_FILE", value_name = "FILE")]
    pub store_ca_file: Option<PathBuf>,
}

impl StoreArgs {
    /// The named store; `directory` where none is.
    ///
    /// # Errors
    /// It cannot be opened: the message names the setting.
    pub fn open(&self, directory: &Path) -> anyhow::Result<Store> {
        let Some(url) = &self.store else { return Ok(Store::local(directory)?) };
        let default = StoreConfig::default();
        let endpoint = self.store_endpoint.clone().unwrap_or_default();
        let config = StoreConfig {
            url: url.clone(),
            allow_http: endpoint.starts_with("http://"),
            endpoint,
            region: self.store_region.clone().unwrap_or(default.region),
            ca_file: self.store_ca_file.clone(),
            ..default
        };
        Ok(Store::open(&config)?)
    }
}

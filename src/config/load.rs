//! Reads the configuration from its layers.
//!
//! The layers are merged by `figment`, which remembers where a value comes from. The file and the
//! environment come in as data, so that tests need neither. An error never shows a value: it may be
//! a secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::role::Role;
use super::validate::problems;
use super::{Config, keys};

/// File that is read if it exists and no other is named.
const DEFAULT_FILE: &str = "custody.toml";
/// Prefix of environment variables.
const PREFIX: &str = "CUSTODY_";

/// Where a command's configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file; `custody.toml` if there is one. `CUSTODY_<SECTION>__<KEY>` overrides it.
    #[arg(long, env = "CUSTODY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory; overrides the configuration's.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// A configuration that cannot be used: one line per problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl ConfigError {
    fn one(problem: String) -> Self {
        Self(vec![problem])
    }
}

/// A configuration with the origin of every value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    figment: Figment,
}

/// One layer: some keys from one place.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

impl ConfigArgs {
    /// Reads the configuration from the file system and the environment of this process.
    ///
    /// # Errors
    /// [`ConfigError`]: every unknown key, and the first value that does not fit.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let path = self.config.clone().or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|p| p.exists()));
        let file = path.as_deref().map(read).transpose()?;
        let file = file.as_ref().zip(path.as_deref()).map(|(text, path)| (path, text.as_str()));
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        load(file, environment, self.data_dir.as_deref())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::one(format!("cannot read {}: {error}", path.display())))
}

/// Merges the layers: a file's path and text, environment variables, the command line.
pub(super) fn load(
    file: Option<(&Path, &str)>,
    environment: impl Iterator<Item = (String, String)>,
    data_dir: Option<&Path>,
) -> Result<Loaded, ConfigError> {
    let known = defaults()?;
    let mut layers = Vec::new();
    if let Some((path, text)) = file {
        layers.push(Layer { origin: path.display().to_string(), dict: parse(path, text)? });
    }
    // Sorted, so that the same environment always gives the same error.
    let environment: BTreeMap<String, String> = environment.collect();
    layers.extend(environment.iter().filter_map(|(name, value)| variable(name, value, &known)));
    let unknown: Vec<String> = layers
        .iter()
        .flat_map(|layer| keys::unknown(&layer.dict, &known).into_iter().map(|u| unknown_key(&layer.origin, &u)))
        .collect();
    if !unknown.is_empty() {
        return Err(ConfigError(unknown));
    }
    if let Some(dir) = data_dir {
        let dict = Dict::from([("data_dir".to_owned(), Value::from(dir.to_string_lossy().into_owned()))]);
        layers.push(Layer { origin: "--data-dir".to_owned(), dict });
    }
    let base = Figment::from(Layer { origin: "default".to_owned(), dict: known });
    let figment = layers.into_iter().fold(base, |figment, layer| figment.merge(layer));
    let config = figment.extract().map_err(|error| ConfigError(error.into_iter().map(|e| unfit(&e)).collect()))?;
    Ok(Loaded { config, figment })
}

/// The default of every key: also the list of known keys.
fn defaults() -> Result<Dict, ConfigError> {
    let defect = || ConfigError::one("the default configuration is not a table: a defect of this build".to_owned());
    match Value::serialize(Config::default()) {
        Ok(Value::Dict(_, dict)) => Ok(dict),
        _ => Err(defect()),
    }
}

fn parse(path: &Path, text: &str) -> Result<Dict, ConfigError> {
    let parsed: Result<Value, _> = toml::from_str(text);
    match parsed {
        Ok(Value::Dict(_, dict)) => Ok(dict),
        Ok(_) => Err(ConfigError::one(format!("{} is not a table", path.display()))),
        Err(error) => {
            // Not the error's own text: it repeats the line, which may hold a secret.
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Err(ConfigError::one(format!("{} line {line}: {}", path.display(), error.message())))
        }
    }
}

/// The layer of an environment variable; `None` if it is not one of ours (no `__` in its name).
fn variable(name: &str, value: &str, known: &Dict) -> Option<Layer> {
    let rest = name.strip_prefix(PREFIX)?;
    // CUSTODY__DATA_DIR: a key without a section.
    let path = rest.strip_prefix('_').map_or_else(|| rest.contains("__").then_some(rest), Some)?;
    let mut path: Vec<String> = path.to_ascii_lowercase().split("__").map(str::to_owned).collect();
    if let [section, table, name] = path.as_mut_slice()
        && section == "log"
        && known_value(known, &[section, table]).is_some_and(|v| v.as_dict().is_some())
    {
        // Names of librdkafka and of Kafka have dots where a variable cannot.
        *name = name.replace('_', ".");
    }
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let value = match known_value(known, &segments) {
        // What is text stays text: a password of digits is no number.
        Some(Value::String(..)) => Value::from(value),
        Some(_) => value.parse().unwrap_or_else(|_| Value::from(value)),
        // An entry of an open table: its reader takes text for numbers too.
        None => value.parse().ok().filter(|v: &Value| v.as_dict().is_some()).unwrap_or_else(|| Value::from(value)),
    };
    let (last, tables) = path.split_last()?;
    let leaf = Dict::from([(last.clone(), value)]);
    let nest = |inner: Dict, table: &String| Dict::from([(table.clone(), Value::Dict(Tag::Default, inner))]);
    let dict = tables.iter().rev().fold(leaf, nest);
    Some(Layer { origin: format!("environment variable {name}"), dict })
}

fn known_value<'a>(known: &'a Dict, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = known.get(*first)?;
    if rest.is_empty() { Some(value) } else { known_value(value.as_dict()?, rest) }
}

fn unknown_key(origin: &str, unknown: &keys::Unknown) -> String {
    let key = &unknown.key;
    match &unknown.nearest {
        Some(nearest) => format!("{origin}: unknown key {key}; the nearest known one is {nearest}"),
        None => format!("{origin}: unknown key {key}; `custody config print --default` lists all"),
    }
}

/// A value that does not fit, without the value.
fn unfit(error: &figment::Error) -> String {
    let origin = error.metadata.as_ref().map_or("default", |m| m.name.as_ref());
    let key = error.path.join(".");
    let what = match &error.kind {
        Kind::InvalidType(actual, expected) => format!("{} is not {expected}", kind_of(actual)),
        Kind::InvalidValue(actual, expected) => format!("this {} is not {expected}", kind_of(actual)),
        Kind::UnknownField(field, known) => {
            let known: Vec<String> = known.iter().map(|k| (*k).to_owned()).collect();
            let nearest =
                keys::nearest(field, &known).map_or_else(String::new, |k| format!("; the nearest known one is {k}"));
            format!("unknown key {field}{nearest}")
        }
        Kind::UnknownVariant(_, known) => format!("it must be one of {}", known.join(", ")),
        kind => kind.to_string(),
    };
    format!("{origin}: {key}: {what}")
}

fn kind_of(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "this value",
    }
}

impl Loaded {
    /// Where a value comes from, by its dotted key.
    pub fn origin(&self, key: &str) -> String {
        let mut key = key;
        loop {
            if let Some(metadata) = self.figment.find_metadata(key) {
                return metadata.name.to_string();
            }
            // A name with dots in an open table: that of its table.
            match key.rsplit_once('.') {
                Some((table, _)) => key = table,
                None => return "default".to_owned(),
            }
        }
    }

    /// The configuration, if `role` can run with it.
    ///
    /// # Errors
    /// [`ConfigError`]: everything that is wrong, each with its remedy.
    pub fn for_role(self, role: Role) -> Result<Config, ConfigError> {
        let found = problems(&self.config, role);
        if found.is_empty() { Ok(self.config) } else { Err(ConfigError(found)) }
    }
}

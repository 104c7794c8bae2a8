//! The effective configuration as TOML, each value with where it comes from.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::load::{ConfigError, Loaded};

impl Loaded {
    /// The effective configuration; secrets are asterisks. Reading it back gives the same settings but
    /// for them.
    ///
    /// # Errors
    /// A section cannot be written as TOML: a defect of its type.
    pub fn print(&self) -> Result<String, ConfigError> {
        let failed = |error: toml::ser::Error| ConfigError(vec![format!("cannot print the configuration: {error}")]);
        let table = Table::try_from(&self.config).map_err(failed)?;
        let mut text = String::new();
        self.table("", &table, &mut text);
        Ok(text)
    }

    fn table(&self, path: &str, table: &Table, text: &mut String) {
        let dotted = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (key, value) in table.iter().filter(|(_, v)| !v.is_table()) {
            let origin = self.origin(&dotted(key));
            let note = if origin == "default" { String::new() } else { format!("  # {origin}") };
            // Writing to a string cannot fail.
            let _written = writeln!(text, "{} = {value}{note}", quoted(key));
        }
        for (key, value) in table {
            let Value::Table(inner) = value else { continue };
            let path = dotted(&quoted(key));
            let _written = writeln!(text, "\n[{path}]");
            self.table(&path, inner, text);
        }
    }
}

/// A key as TOML wants it.
fn quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { key.to_owned() } else { Value::from(key).to_string() }
}

//! The statements that make and extend the tables.
//!
//! Columns come from `schemas::table`; a database that an older build made gets the new ones
//! appended. It drops nothing and changes no type: data outlives builds.

use schemas::table::{Column, Flag, Table, ddl};

/// A column as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct ExistingColumn {
    /// Table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Type, as the server spells it.
    pub r#type: String,
}

/// A table that cannot be extended to what this build writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {table}.{column} is {existing} but this build writes {wanted}; load into a new database")]
pub struct ColumnMismatch {
    /// Table.
    pub table: &'static str,
    /// Column.
    pub column: &'static str,
    /// Type there.
    pub existing: String,
    /// Type wanted.
    pub wanted: String,
}

/// Creates the database.
pub fn create_database(database: &str) -> String {
    format!("CREATE DATABASE IF NOT EXISTS {database} COMMENT 'Custody: the chain of custody for AI-agent events'")
}

/// Creates the record of applied migrations.
pub fn create_migrations(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {database}.schema_migrations\n(\n\
         \x20   version UInt32 COMMENT 'Step of the layout',\n\
         \x20   name String COMMENT 'What the step makes',\n\
         \x20   sha256 String COMMENT 'SHA-256 of its statements, hexadecimal',\n\
         \x20   outcome String COMMENT 'applied, or why the server could not',\n\
         \x20   applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When, UTC'\n\
         )\nENGINE = MergeTree\nORDER BY (version, applied_at)\nCOMMENT 'Which layout this database has'"
    )
}

/// Creates every table that rows are loaded into, and the tenants that each user may read.
pub fn create_tables(database: &str) -> Vec<String> {
    let mut statements: Vec<String> = Table::ALL.iter().map(|table| ddl(*table, database)).collect();
    statements.push(format!(
        "CREATE TABLE IF NOT EXISTS {database}.tenant_access\n(\n\
         \x20   user_name String COMMENT 'Name of a user with the role custody_analyst',\n\
         \x20   tenant_id String COMMENT 'Tenant whose rows the user may read'\n\
         )\nENGINE = MergeTree\nORDER BY (user_name, tenant_id)\n\
         COMMENT 'Row policies read it; empty means that analysts see nothing'"
    ));
    statements
}

/// Names of the columns that a table holds in ClickHouse, in order.
pub fn loaded_columns(table: Table) -> impl Iterator<Item = &'static Column> {
    table.columns().iter().filter(|column| !column.has(Flag::ArchiveOnly))
}

/// `ALTER TABLE … ADD COLUMN` for every column that the server lacks.
///
/// # Errors
/// A column has another type there.
pub fn extend_tables(database: &str, existing: &[ExistingColumn]) -> Result<Vec<String>, ColumnMismatch> {
    let mut statements = Vec::new();
    for table in Table::ALL {
        let mut after = "FIRST".to_owned();
        for column in loaded_columns(table) {
            let found = existing.iter().find(|e| e.table == table.name() && e.name == column.name);
            let wanted = column.clickhouse_type();
            match found {
                None => statements.push(format!(
                    "ALTER TABLE {database}.{} ADD COLUMN IF NOT EXISTS {} {wanted} COMMENT '{}' {after}",
                    table.name(),
                    column.name,
                    column.doc.replace('\\', "\\\\").replace('\'', "\\'")
                )),
                Some(found) if found.r#type != wanted => {
                    let (table, column, existing) = (table.name(), column.name, found.r#type.clone());
                    return Err(ColumnMismatch { table, column, existing, wanted });
                }
                Some(_) => {}
            }
            after = format!("AFTER {}", column.name);
        }
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ExistingColumn> {
        let of = |table: Table| {
            loaded_columns(table).map(move |column| ExistingColumn {
                table: table.name().to_owned(),
                name: column.name.to_owned(),
                r#type: column.clickhouse_type(),
            })
        };
        Table::ALL.into_iter().flat_map(of).collect()
    }

    #[test]
    fn a_current_database_is_left_alone() {
        assert_eq!(extend_tables("custody", &all()), Ok(vec![]));
    }

    #[test]
    fn a_missing_column_is_added_in_its_place() {
        let older: Vec<_> =
            all().into_iter().filter(|c| (c.table.as_str(), c.name.as_str()) != ("events", "seq")).collect();
        let statements = extend_tables("custody", &older).unwrap();
        let [statement] = &statements[..] else { panic!("{statements:?}") };
        assert!(statement.starts_with("ALTER TABLE custody.events ADD COLUMN IF NOT EXISTS seq Int64 COMMENT '"));
        assert!(statement.ends_with("' AFTER parent_session_id"), "{statement}");
    }

    #[test]
    fn another_type_is_refused() {
        let mut other = all();
        other.iter_mut().find(|c| c.name == "seq").unwrap().r#type = "UInt8".to_owned();
        let error = extend_tables("custody", &other).unwrap_err();
        assert_eq!((error.table, error.column, error.wanted.as_str()), ("events", "seq", "Int64"));
    }

    #[test]
    fn every_column_of_our_own_tables_has_a_comment() {
        for statement in create_tables("custody").iter().chain([&create_migrations("custody")]) {
            let columns = statement.lines().filter(|line| line.starts_with("    ") && !line.contains(" INDEX "));
            for line in columns {
                assert!(line.contains("COMMENT '"), "{line}");
            }
        }
    }
}

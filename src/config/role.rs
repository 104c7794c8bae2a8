//! What a process runs: the one table of roles that the command line, checks and deployments follow.
//!
//! Which stages and sinks a role runs is said where they are listed (`stage_table`, `sink_table`).

use clap::ValueEnum;
use clap::builder::PossibleValue;

/// What a process is to run; its number is its place in [`ROLES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Everything in one process.
    Up,
    /// Intake.
    Gateway,
    /// Stage `pii`.
    Pii,
    /// Stages `completeness` and `writers`.
    Completeness,
    /// Stages `features` and `score`.
    Anomaly,
    /// Parquet.
    Archive,
    /// ClickHouse.
    Load,
    /// Notifications.
    Alert,
}

/// A role on the command line.
#[derive(Debug)]
pub struct RoleInfo {
    /// The role.
    pub role: Role,
    /// Name, also in metrics.
    pub name: &'static str,
    /// Whether it runs stages and is started by `custody process NAME`; others by `custody NAME`.
    pub runs_stages: bool,
    /// What it does, for `--help`.
    pub help: &'static str,
}

const fn role(role: Role, name: &'static str, help: &'static str) -> RoleInfo {
    RoleInfo { role, name, runs_stages: false, help }
}

const fn process(role: Role, name: &'static str, help: &'static str) -> RoleInfo {
    RoleInfo { role, name, runs_stages: true, help }
}

/// Every role.
pub const ROLES: [RoleInfo; 8] = [
    role(Role::Up, "up", "Everything in one process"),
    role(Role::Gateway, "gateway", "Take events in over HTTP and gRPC"),
    process(Role::Pii, "pii", "Replace personal data and secrets by tokens"),
    process(Role::Completeness, "completeness", "Report what is missing, duplicated, late or out of order"),
    process(Role::Anomaly, "anomaly", "Report what is unusual"),
    role(Role::Archive, "archive", "Publish clean events, findings and alerts as Parquet"),
    role(Role::Load, "load", "Insert clean events, findings and alerts into ClickHouse"),
    role(Role::Alert, "alert", "Send alerts to receivers"),
];

impl Role {
    /// Its entry.
    pub const fn info(self) -> &'static RoleInfo {
        &ROLES[self as usize]
    }

    /// Name on the command line and in metrics.
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// How it is started: what stands behind `custody`.
    pub fn command(self) -> String {
        let info = self.info();
        if info.runs_stages { format!("process {}", info.name) } else { info.name.to_owned() }
    }

    /// Whether a process of this role runs `other`.
    pub fn runs(self, other: Role) -> bool {
        self == Role::Up || self == other
    }

    /// The role of that name that `custody process` starts.
    pub fn of_process(name: &str) -> Option<Self> {
        Self::of_processes().find(|info| info.name == name).map(|info| info.role)
    }

    /// The roles that `custody process` starts, for `--help`.
    pub fn process_names() -> Vec<PossibleValue> {
        Self::of_processes().map(|info| PossibleValue::new(info.name).help(info.help)).collect()
    }

    fn of_processes() -> impl Iterator<Item = &'static RoleInfo> {
        ROLES.iter().filter(|info| info.runs_stages)
    }
}

impl ValueEnum for Role {
    fn value_variants<'a>() -> &'a [Self] {
        const VARIANTS: [Role; ROLES.len()] = {
            let mut variants = [Role::Up; ROLES.len()];
            let mut index = 0;
            while index < ROLES.len() {
                variants[index] = ROLES[index].role;
                index += 1;
            }
            variants
        };
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.info().help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_stands_at_the_place_of_its_role() {
        assert!(ROLES.iter().enumerate().all(|(index, info)| info.role as usize == index));
    }
}

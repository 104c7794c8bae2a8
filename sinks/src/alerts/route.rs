//! Which alerts a receiver gets: by least severity, tenant and alert class.

use schemas::event::Alert;
use serde::{Deserialize, Serialize};

/// How bad it is, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    #[default]
    Info,
    /// To be looked at in working hours.
    Warning,
    /// To be looked at now.
    Error,
    /// To be acted on now.
    Critical,
}

impl Severity {
    /// The severity of that name. An unknown name counts as [`Severity::Error`]: an alert is not lost
    /// because a newer detector names what we do not know.
    pub fn of(name: &str) -> Self {
        match name {
            "info" => Self::Info,
            "warning" => Self::Warning,
            "critical" => Self::Critical,
            _ => Self::Error,
        }
    }

    /// Its name in records and payloads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// A receiver's filter. An empty list lets everything through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// Least severity.
    pub severity_min: Severity,
    /// Tenants.
    pub tenants: Vec<String>,
    /// Alert classes.
    pub alert_classes: Vec<String>,
}

impl Route {
    /// Whether the receiver wants this alert.
    pub fn takes(&self, alert: &Alert) -> bool {
        let is_in = |list: &[String], value: &str| list.is_empty() || list.iter().any(|l| l == value);
        Severity::of(&alert.severity) >= self.severity_min
            && is_in(&self.tenants, &alert.tenant_id)
            && is_in(&self.alert_classes, &alert.alert_class)
    }
}

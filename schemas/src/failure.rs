//! What went wrong and what the caller must do about it: one vocabulary for logs, sinks and the roles above them.
//!
//! There is no "ignore" (invariant I10): every class names an action. A failure wraps no foreign error, so that
//! callers depend on no library below. Bad input is no failure but a [`crate::reject::Reject`].

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The other side is unavailable or overloaded, and nothing was done, or doing it again adds nothing: keep the
    /// work and try the same again, without end.
    Retry {
        /// Shortest wait in milliseconds; 0 leaves it to the caller's own back-off.
        after_ms: u64,
    },
    /// It was not done, or nobody can tell (a lost answer), or another writer was first: drop what is in flight, ask
    /// for the position again, restore the state and continue there, which is right in each case.
    Restart,
    /// Another member took over: drop the partition and commit nothing.
    Fenced,
    /// Configuration, permission or a server that lacks a guarantee: stop, and say what to change.
    Config,
    /// The data or what is stored contradicts an invariant: stop, offsets uncommitted.
    Fatal,
}

/// What a class asks for, whoever failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Wait and try again, without end.
    Again,
    /// Another member took over: join again, but not without end.
    Rejoin,
    /// A person must look.
    Person,
}

impl ErrorClass {
    /// Unavailable, as long as the caller's own back-off says.
    pub const RETRY: Self = ErrorClass::Retry { after_ms: 0 };

    /// What it asks for.
    pub const fn remedy(self) -> Remedy {
        match self {
            ErrorClass::Retry { .. } | ErrorClass::Restart => Remedy::Again,
            ErrorClass::Fenced => Remedy::Rejoin,
            ErrorClass::Config | ErrorClass::Fatal => Remedy::Person,
        }
    }

    /// Whether waiting and asking for the positions again helps.
    pub const fn is_passing(self) -> bool {
        matches!(self.remedy(), Remedy::Again)
    }
}

/// A failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct Failure {
    /// What to do.
    pub class: ErrorClass,
    /// The operation and its object, e.g. `commit of custody.events.v1/3`.
    pub what: String,
    /// What happened and, where there is one, the remedy.
    pub message: String,
}

impl Failure {
    /// A failure of `class` of the operation `what`.
    pub fn new(class: ErrorClass, what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { class, what: what.into(), message: message.to_string() }
    }

    /// The data or what is stored contradicts an invariant.
    pub fn fatal(what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::new(ErrorClass::Fatal, what, message)
    }

    /// Something must be configured otherwise.
    pub fn config(what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::new(ErrorClass::Config, what, message)
    }

    /// Another member took over.
    pub fn fenced(what: impl Into<String>) -> Self {
        Self::new(ErrorClass::Fenced, what, "the partition belongs to another member now; drop it and commit nothing")
    }

    /// The same failure, said of a larger operation.
    #[must_use]
    pub fn within(self, outer: impl std::fmt::Display) -> Self {
        Self { what: format!("{outer}: {}", self.what), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_what_to_do() {
        let check = |class: ErrorClass, expected| assert_eq!(class.remedy(), expected, "{class:?}");
        check(ErrorClass::RETRY, Remedy::Again);
        check(ErrorClass::Retry { after_ms: 1_000 }, Remedy::Again);
        check(ErrorClass::Restart, Remedy::Again);
        check(ErrorClass::Fenced, Remedy::Rejoin);
        check(ErrorClass::Config, Remedy::Person);
        check(ErrorClass::Fatal, Remedy::Person);
    }

    #[test]
    fn a_failure_names_every_operation_around_it() {
        let failure = Failure::fenced("commit of custody.clean.v1/3").within("alert receiver ops");
        assert!(failure.to_string().starts_with("alert receiver ops: commit of custody.clean.v1/3: the partition"));
    }
}

//! The five laws.

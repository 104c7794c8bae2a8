//! Agent side.

//! Text of events under one name: raw or clean, and the content field that holds it.
//!
//! It only re-exports: [`Content`] is a record of the event catalogue, which itself needs the kinds of text.

pub(crate) mod kind;

pub use crate::event::Content;
pub use kind::{CleanText, RawText, Text};

//! `docs/otlp.md` says what the table says.

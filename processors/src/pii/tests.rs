//! Tests of the scanner and the stage.
